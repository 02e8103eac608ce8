import { expect } from "chai";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openSqlite, openStore, type Store } from "unibus-membership";
import { conformanceCases, type ConformanceBackend } from "unibus-membership/testing";
import { conforms, opTimeoutMs } from "../support/conforms.js";
import { foreign, throughFunctions } from "../support/foreign-store.js";

describe("the conformance table", () => {
  it("has a name for each case, once", () => {
    const names = conformanceCases.map((each) => each.name);
    expect(new Set(names).size).to.equal(names.length);
    expect(names.length).to.be.greaterThan(150);
  });
});

async function inFolder(open: (path: string) => Promise<Store>): Promise<ConformanceBackend> {
  const folder = await mkdtemp(join(tmpdir(), "unibus-conformance-"));
  const path = join(folder, "membership.db");
  return {
    store: await open(path),
    reopen: () => open(path),
    dispose: () => rm(folder, { recursive: true }),
  };
}

conforms("sqlite", () => ({ fresh: () => inFolder((path) => openSqlite(path, { opTimeoutMs })) }));

conforms("sqlite :memory:", () => ({ fresh: async () => ({ store: await openSqlite(":memory:", { opTimeoutMs }) }) }));

conforms("sqlite, opened by config", () => ({
  fresh: () => inFolder((path) => openStore({ sqlite: { path, opTimeoutMs } })),
}));

conforms("sqlite :memory:, through the functions", () => ({
  fresh: async () => ({ store: throughFunctions(await openSqlite(":memory:", { opTimeoutMs })) }),
}));

conforms("sqlite :memory:, through the functions over a store of somebody else", () => ({
  fresh: async () => ({ store: throughFunctions(foreign(await openSqlite(":memory:", { opTimeoutMs }))) }),
}));
