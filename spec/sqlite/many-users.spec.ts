import { expect } from "chai";
import { openSqlite, type Store } from "unibus-membership";
import { Child } from "./support/child.js";
import { useFolder } from "./support/folder.js";

const USERS = 40_000;
/** So many that some share a whole hash of 32 bits with a user. */
const STRANGERS = 500_000;

const keyOf = (kind: "user" | "none", n: number): string => `${kind}-${String(n).padStart(8, "0")}`;

describe("sqlite: many users", function () {
  this.timeout(300_000);
  let store: Store;

  const open = async (path: string): Promise<void> => {
    store = await openSqlite(path, { opTimeoutMs: 60_000 });
  };

  beforeEach(() => open(":memory:"));
  // Before the folder goes.
  afterEach(() => store.close());
  const folder = useFolder();

  async function add(from: number, to: number, prefix = ""): Promise<void> {
    await Promise.all(
      Array.from({ length: to - from }, (_, n) => store.users.add({ key: prefix + keyOf("user", from + n) })),
    );
  }

  async function missed(to: number, prefix = ""): Promise<number[]> {
    const found: number[] = [];
    for (let n = 0; n < to; n++) if (!(await store.isAuthorized(prefix + keyOf("user", n)))) found.push(n);
    return found;
  }

  async function allowed(keys: Iterable<string>): Promise<string[]> {
    const found: string[] = [];
    for (const key of keys) if (await store.isAuthorized(key)) found.push(key);
    return found;
  }

  for (const [kind, prefix] of [
    ["short keys", ""],
    ["long keys that differ at their end", "k".repeat(80)],
  ] as const) {
    it(`each of many is allowed, and no stranger is taken for one of them: ${kind}`, async () => {
      await add(0, USERS, prefix);
      expect(await missed(USERS, prefix)).to.deep.equal([]);

      function* strangers(): Generator<string, void, undefined> {
        for (let n = 0; n < STRANGERS; n++) yield prefix + keyOf("none", n);
      }
      expect(await allowed(strangers())).to.deep.equal([]);
    });
  }

  it("each is allowed after the next opening, and when as many again have come", async () => {
    await store.close();
    await open(folder.file());
    await add(0, USERS);
    await store.close();
    await open(folder.file());
    expect(await missed(USERS)).to.deep.equal([]);
    await add(USERS, 2 * USERS);
    await store.users.revoke(keyOf("user", 7));
    expect(await missed(2 * USERS)).to.deep.equal([7]);
  });

  it("a table whose users' hashes are all the same answers as any other", async () => {
    const child = new Child(
      `
      Math.imul = () => 0;
      const store = await openSqlite(":memory:", { opTimeoutMs: 60_000 });
      const users = Array.from({ length: 13_000 }, (_, n) => "user" + n);
      const long = "k".repeat(80);
      await Promise.all([...users, long + "1"].map((key) => store.users.add({ key })));
      const answers = await Promise.all([users[0], users.at(-1), "stranger", long + "1", long + "2"].map((key) => store.isAuthorized(key)));
      say(answers.join(" "));
    `,
      [],
    );
    try {
      await child.says("true true false true false");
    } finally {
      await child.kill();
    }
  });

  it("keys of every length, of which each begins with the one before, are users of their own", async () => {
    const keys = Array.from({ length: 256 }, (_, n) => "k".repeat(n + 1));
    for (const key of keys) await store.users.add({ key });
    expect(await allowed(keys)).to.deep.equal(keys);
    const kept = keys.filter((_, n) => n % 3 === 0);
    for (const key of keys) if (!kept.includes(key)) await store.users.revoke(key);
    expect(await allowed(keys)).to.deep.equal(kept);
    for (const key of keys) expect((await store.users.get(key)).key).to.equal(key);
  });

  it("what is no key is nobody, also where the low bits of its characters are a user's", async () => {
    await store.users.add({ key: "abc" });
    const none = [
      "",
      "k".repeat(257),
      "\u0161\u0162\u0163",
      "\u6261bc",
      "a\u6362c",
      "abc\u0000",
      "abc\u0100",
      { length: 3, charCodeAt: (i: number) => 0x61 + i },
      ["abc"],
      3,
      null,
    ];
    expect(await allowed(none as string[])).to.deep.equal([]);
    expect(await allowed(["abc", " ABC\n"])).to.deep.equal(["abc", " ABC\n"]);
  });
});
