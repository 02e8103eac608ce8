import { expect } from "chai";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import * as esm from "unibus-membership";
import { StoreError, isStoreError, type StoreErrorCode } from "unibus-membership";

const tests: Readonly<Record<StoreErrorCode, (error: unknown) => boolean>> = {
  NOT_FOUND: esm.isNotFound,
  ALREADY_EXISTS: esm.isAlreadyExists,
  CONFLICT: esm.isConflict,
  INVALID_ARGUMENT: esm.isInvalidArgument,
  TIMEOUT: esm.isTimeout,
  UNAVAILABLE: esm.isUnavailable,
  CLOSED: esm.isClosed,
  LOCKED: esm.isLocked,
  CORRUPT: esm.isCorrupt,
  INCOMPATIBLE: esm.isIncompatible,
};
const codes = Object.keys(tests) as StoreErrorCode[];

describe("errors", () => {
  it("each code has a test that knows it and no other", () => {
    for (const code of codes) {
      const error = new StoreError(code, "message");
      expect(isStoreError(error)).to.equal(true);
      for (const other of codes)
        expect(tests[other](error), `${code} by the test of ${other}`).to.equal(code === other);
    }
  });

  it("an error is an Error with a name, a message, a stack and its cause", () => {
    const cause = new Error("disk");
    const error = new StoreError("UNAVAILABLE", "no disk", { cause, outcome: "unknown", details: { holder: 7 } });
    expect(error).to.be.instanceOf(Error);
    expect(String(error)).to.equal("StoreError: no disk");
    expect(error.stack).to.include("errors.spec");
    expect(error.cause).to.equal(cause);
    expect(error.outcome).to.equal("unknown");
    expect(error.details).to.deep.equal({ holder: 7 });
    expect(error.argument).to.equal(undefined);
  });

  it("an error has no fields that it was not given", () => {
    const error = new StoreError("NOT_FOUND", "gone");
    expect([error.argument, error.outcome, error.details, error.cause]).to.deep.equal([
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
  });

  it("what is no StoreError is none, whatever it looks like", () => {
    const others: readonly unknown[] = [
      undefined,
      null,
      0,
      "NOT_FOUND",
      {},
      { code: "NOT_FOUND" },
      { name: "StoreError", code: "NOT_FOUND" },
      new Error("NOT_FOUND"),
      Object.assign(new Error("x"), { code: "NOT_FOUND" }),
      Object.assign(new Error("x"), { name: "StoreError", code: "EACCES" }),
      new Proxy(new Error("x"), {
        get: () => {
          throw new Error("trap");
        },
      }),
    ];
    for (const other of others) {
      expect(isStoreError(other)).to.equal(false);
      for (const test of Object.values(tests)) expect(test(other)).to.equal(false);
    }
  });

  it("two copies of the package know each other's errors", () => {
    const require = createRequire(import.meta.url);
    const path = require.resolve("unibus-membership");
    const folder = dirname(path);
    require(path);
    // An app can hold two versions: one loaded again is as good as another.
    for (const loaded of Object.keys(require.cache))
      if (dirname(loaded) === folder) Reflect.deleteProperty(require.cache, loaded);
    const copy = require(path) as typeof esm;
    expect(copy.StoreError).not.to.equal(esm.StoreError);
    for (const code of codes) {
      expect(tests[code](new copy.StoreError(code, "from the other copy"))).to.equal(true);
      expect(copy.isStoreError(new esm.StoreError(code, "from this copy"))).to.equal(true);
    }
    expect(copy.isNotFound(new esm.StoreError("NOT_FOUND", "gone"))).to.equal(true);
  });
});
