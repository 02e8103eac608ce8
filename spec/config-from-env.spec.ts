import { expect } from "chai";
import { fromSubjectToken, isStoreError, openStore, storeConfigFromEnv, subjectToken } from "unibus-membership";

type Env = Parameters<typeof storeConfigFromEnv>[0];

const PREFIX = "UNIBUS_MEMBERSHIP_";
const named = (variables: Readonly<Record<string, string>>): Env =>
  Object.fromEntries(Object.entries(variables).map(([name, value]) => [PREFIX + name, value]));

function refused(run: () => unknown): { argument: string | undefined; text: string } {
  try {
    run();
  } catch (error) {
    if (!isStoreError(error)) throw error;
    expect(error.code).to.equal("INVALID_ARGUMENT");
    return { argument: error.argument, text: error.message };
  }
  throw new Error("taken");
}

describe("storeConfigFromEnv", () => {
  it("makes both sections of variables, and a flag that swaps them", () => {
    const env = named({
      DECENTRALIZED: "true",
      SQLITE_PATH: "membership.db",
      SQLITE_OP_TIMEOUT_MS: "1500",
      JETSTREAM_REPLICAS: "3",
      JETSTREAM_PREFIX: "app_",
      JETSTREAM_OP_TIMEOUT_MS: "2500",
      JETSTREAM_CACHE_BYTES: "1000000",
      NATS_SERVERS: "n1:4222, n2:4222",
      NATS_USER: "u",
      NATS_PASS: "p",
      NATS_TLS_CA_FILE: "ca.pem",
      NATS_TLS_HANDSHAKE_FIRST: "1",
    });
    expect(storeConfigFromEnv({ ...env, HOME: "/", UNIBUS: "another's" })).to.deep.equal({
      decentralized: true,
      sqlite: { path: "membership.db", opTimeoutMs: 1500 },
      jetstream: {
        replicas: 3,
        prefix: "app_",
        opTimeoutMs: 2500,
        cacheBytes: 1_000_000,
        connect: {
          servers: ["n1:4222", "n2:4222"],
          user: "u",
          pass: "p",
          tls: { caFile: "ca.pem", handshakeFirst: true },
        },
      },
    });
    expect(storeConfigFromEnv({ ...env, [`${PREFIX}DECENTRALIZED`]: "0" }).decentralized).to.equal(false);
  });

  it("has no section without a variable, and counts an empty one as absent", () => {
    expect(storeConfigFromEnv({})).to.deep.equal({});
    expect(storeConfigFromEnv(named({ SQLITE_PATH: "", JETSTREAM_PREFIX: "", TYPO: "" }))).to.deep.equal({});
    expect(storeConfigFromEnv(named({ JETSTREAM_PREFIX: "x_" }))).to.deep.equal({
      jetstream: { prefix: "x_", connect: {} },
    });
  });

  it("opens", async () => {
    await using store = await openStore(storeConfigFromEnv(named({ SQLITE_PATH: ":memory:" })));
    expect(store.backend).to.equal("sqlite");
  });

  for (const [name, value] of [
    ["SQLITEPATH", "x"],
    ["sqlite_path", "x"],
    ["DECENTRALIZED", "yes"],
    ["DECENTRALIZED", "toString"],
    ["DECENTRALIZED", " true"],
    ["toString", "x"],
    ["JETSTREAM_REPLICAS", "three"],
    ["JETSTREAM_REPLICAS", "9"],
    ["JETSTREAM_REPLICAS", "1e0"],
    ["JETSTREAM_PREFIX", "a.b"],
    ["JETSTREAM_OP_TIMEOUT_MS", "0"],
    ["NATS_NKEY_SEED", "hunter2"],
    ["NATS_CREDS", "hunter2"],
  ] as const) {
    it(`refuses ${name}=${value}, names the variable, and does not say what it holds where it may be a secret`, () => {
      const { argument, text } = refused(() => storeConfigFromEnv(named({ [name]: value, SQLITE_PATH: "x" })));
      expect(argument).to.equal(`env.${PREFIX}${name}`);
      expect(text).not.to.include("hunter2");
    });
  }

  it("refuses a file that is not named, and two ways to log in", () => {
    expect(refused(() => storeConfigFromEnv(named({ SQLITE_OP_TIMEOUT_MS: "5" }))).argument).to.equal(
      `env.${PREFIX}SQLITE_PATH`,
    );
    const nkey = `SU${"A".repeat(56)}`;
    expect(refused(() => storeConfigFromEnv(named({ NATS_NKEY_SEED: nkey, NATS_CREDS_FILE: "x" }))).argument).to.equal(
      `env.${PREFIX}NATS_NKEY_SEED`,
    );
  });

  it("refuses what is no table of variables", () => {
    for (const env of [undefined, null, "x"])
      expect(refused(() => storeConfigFromEnv(env as unknown as Env)).argument).to.equal("env");
    const env = { [`${PREFIX}SQLITE_PATH`]: 7 } as unknown as Env;
    expect(refused(() => storeConfigFromEnv(env)).argument).to.equal(`env.${PREFIX}SQLITE_PATH`);
  });
});

describe("subject tokens", () => {
  it("are one token of a subject, and lead back to the id", () => {
    for (const id of ["a", "general.*", ">", "a b", "..", "/", "é", "🙂", "Alice", "alice", "x".repeat(256)]) {
      const token = subjectToken(id);
      expect(token).to.match(/^[A-Za-z0-9_-]{1,342}$/);
      expect(fromSubjectToken(token)).to.equal(id);
    }
    expect(subjectToken("Alice")).not.to.equal(subjectToken("alice"));
  });

  it("are refused where nobody made them", () => {
    // YR and YQ are both "a" to a decoder; gA is no UTF-8; Cg is a line break.
    for (const token of ["", "YR", "YQ==", "gA", "Cg", "a.b", "*", "a+", undefined, 7])
      expect(refused(() => fromSubjectToken(token as string)).argument).to.equal("token");
    for (const id of ["", "\n", "x".repeat(257), "\ud800", undefined])
      expect(refused(() => subjectToken(id as string)).argument).to.equal("id");
  });
});
