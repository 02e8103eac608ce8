/**
 * Requests that are made of real servers and of simulated ones: of each kind that the library makes, and of each answer
 * to it.
 */
import type { Chance } from "./chance.js";
import type { Comparison, Write } from "./comparison.js";

export type Script = (both: Comparison) => Promise<void>;

const put = (key: string, data = `"${key}"`): Write => ({ key, data });

/** More than the server finds for one request. */
const TOO_MANY = 1025;

export const scripts: Readonly<Record<string, Script>> = {
  "publishes with and without a condition": async (both) => {
    await both.create();
    await both.write(put("a"));
    await both.write(put("a", "other"));
    await both.write(put("empty", ""));
    for (const expected of [0, 1, 2, 3, 4]) await both.write({ ...put("a"), expected });
    for (const expected of [1, 0, 0]) await both.write({ ...put("b"), expected });
    await both.multiLast([">"]);
  },

  "publishes on the condition of another key": async (both) => {
    await both.create();
    const fence = (of: string, expected: number): Promise<void> =>
      both.write({ ...put("barrier", "{}"), expected, of });
    for (const expected of [0, 1]) await fence("absent", expected);
    await both.write(put("a"));
    for (const expected of [0, 2, 1, both.sequenceOf("a")]) await fence("a", expected);
    // The condition is not about the key that is written.
    await fence("a", both.sequenceOf("barrier"));
    await both.purge("a");
    for (const expected of [both.lastSequence, 1, 0]) await fence("a", expected);
    await both.write(put("a.x"), put("a.y"));
    for (const expected of [0, both.sequenceOf("a.x"), both.sequenceOf("a.y")]) await fence("a.>", expected);
    for (const expected of [1, 0]) await fence("b.*", expected);
    await both.last("barrier");
    await both.multiLast([">"]);
  },

  "fences of records, each with a barrier key of its own": async (both) => {
    await both.create();
    const fence = (barrier: string, of: string, expected: number): Write => ({ ...put(barrier, "{}"), expected, of });
    const records = ["user.a", "user.b", "admins"] as const;
    for (const key of records) await both.write({ ...put(key), expected: 0 });
    for (const key of records) {
      const seq = both.sequenceOf(key);
      for (const expected of [seq, seq - 1, seq + 1, 0, both.lastSequence + 1, seq])
        await both.write(fence("barrier.s1", key, expected));
    }
    // Their own records, one another's, and one that is there no more.
    for (const of of ["barrier.s1", "barrier.s2", "barrier.s2"])
      await both.write(fence("barrier.s2", of, both.sequenceOf(of)));
    await both.purge("user.b");
    for (const expected of [both.lastSequence, 0]) await both.write(fence("barrier.s1", "user.b", expected));
    await both.multiLast([">"]);
  },

  "fences of records at once": async (both) => {
    await both.create();
    const fence = (barrier: string, of: string, expected = both.sequenceOf(of)): Write => ({
      ...put(barrier, "{}"),
      expected,
      of,
    });
    await both.write({ ...put("user.a"), expected: 0 });
    await both.write({ ...put("user.b"), expected: 0 });
    for (let i = 0; i < 20; i++) {
      const change: Write = { ...put("user.a", `${i}`), expected: both.sequenceOf("user.a") };
      // Of one record, of two, beside other barriers of the same keys, before and after a change of the record.
      await both.write(
        fence("barrier.s1", "user.a"),
        fence("barrier.s2", "user.a"),
        put("barrier.s1", "{}"),
        fence("barrier.s1", "user.b"),
      );
      await both.write(
        put("barrier.s1", "{}"),
        fence("barrier.s2", "barrier.s1"),
        fence("barrier.s1", "absent", 0),
        fence("barrier.s2", "absent", 0),
      );
      await both.write(change, fence("barrier.s1", "user.a"), fence("barrier.s2", "user.b"));
      await both.write(
        fence("barrier.s2", "user.a"),
        { ...change, expected: both.sequenceOf("user.a") },
        fence("barrier.s1", "user.a", 1),
      );
      await both.last("user.a");
    }
    await both.multiLast([">"]);
  },

  "publishes of one key at once": async (both) => {
    await both.create();
    for (let i = 0; i < 20; i++) {
      const expected = both.sequenceOf("a");
      await both.write({ ...put("a", "1"), expected }, { ...put("a", "2"), expected });
      // One without a condition, which others are then conditional on; a condition about what is just written.
      await both.write(
        put("b"),
        { ...put("b", "2"), expected: both.sequenceOf("b") },
        { ...put("b", "3"), expected: both.lastSequence + 1 },
      );
      const own = both.sequenceOf("c");
      await both.write(
        { ...put("c"), expected: own },
        { ...put("barrier"), expected: own, of: "c" },
        { ...put("barrier"), expected: own, of: "c" },
      );
      await both.write(
        { ...put("barrier"), expected: both.sequenceOf("c"), of: "c" },
        { ...put("c"), expected: both.sequenceOf("c") },
        put("c"),
      );
    }
    await both.multiLast([">"]);
  },

  "reads of several keys": async (both) => {
    await both.create();
    await both.multiLast(["a"]);
    await both.read({ multi_last: [] });
    await both.read({});
    for (const key of ["a.1", "a.2", "a.1.x", "b.1", "b.2", "c", "a.2"])
      await both.write({ ...put(key), expected: both.sequenceOf(key) });
    for (const filters of [
      ["a.1"],
      ["a.1", "c"],
      ["a.1", "none"],
      ["none"],
      ["none", "no.more"],
      ["c", "b.1", "a.1", "a.1"],
    ])
      await both.multiLast(filters);
    for (const filters of [
      ["a.*"],
      ["a.>"],
      [">"],
      ["*"],
      ["*.*"],
      ["a.*", "c"],
      ["a.*", "a.1"],
      ["none.*"],
      ["*.1", "b.>"],
      ["*.1.*"],
    ])
      await both.multiLast(filters);
    await both.read({ multi_last: [">"] });
    await both.purge("a.1");
    await both.multiLast(["a.1"]);
    await both.multiLast(["a.*", "c"]);
    await both.read({ multi_last: ["a"], next_by_subj: "b" });
  },

  "reads of several keys that are cut short for their size": async (both) => {
    await both.create();
    for (const [i, key] of ["a", "b.1", "b.2", "c"].entries())
      await both.write({ ...put(key, "x".repeat(100 * i)), ...(i % 2 === 1 && { expected: 0 }) });
    for (let bytes = 0; bytes <= 1000; bytes += 20) await both.multiLast([">"], { max_bytes: bytes });
    for (let bytes = 0; bytes <= 1000; bytes += 20) await both.next(">", { seq: 1, batch: 10, max_bytes: bytes });
  },

  "reads of too many keys": async (both) => {
    await both.create();
    await both.write(...Array.from({ length: TOO_MANY }, (_, i) => put(`many.${i}`, "")));
    await both.multiLast(["many.*"]);
    await both.multiLast([">"], { max_bytes: 100 });
    await both.next("many.*", { seq: 1, batch: 3 });
    await both.purge("many.7");
    await both.multiLast(["many.*"]);
    await both.multiLast(["many.*", "many.8"], { max_bytes: 100 });
    await both.write(put("one"));
    await both.multiLast([">"]);
  },

  scans: async (both) => {
    await both.create();
    await both.next(">", { seq: 1, batch: 5 });
    for (const key of ["a.1", "b", "a.2", "a.1", "a.3", "c", "b", "d"])
      await both.write({ ...put(key), expected: both.sequenceOf(key) });
    await both.purge("a.3");
    const end = both.lastSequence;
    for (const filter of [">", "a.*", "a.>", "a.1", "b", "d", "none", "*"]) {
      for (let seq = 0; seq <= end + 2; seq++) {
        await both.next(filter, { seq });
        for (const batch of [1, 2, 100]) await both.next(filter, { seq, batch });
        await both.next(filter, { seq, batch: 100, max_bytes: 60 });
      }
    }
    await both.next(">", { batch: 2 });
    await both.read({ seq: 1, next_by_subj: ">", batch: 50 });
    await both.purge();
    await both.next(">", { seq: 1, batch: 5 });
    await both.next(">", { seq: end + 1, batch: 5 });
  },

  "reads beside writes": async (both) => {
    await both.create();
    for (let i = 0; i < 30; i++) {
      const end = both.lastSequence;
      const conditional = { ...put("a.1", `${i}`), expected: both.sequenceOf("a.1") };
      await both.writeBesideReads(
        [conditional, put("a.2", `${i}`), put("b", `${i}`), put("a.2", `${i} again`)],
        [
          { multi_last: [both.subject("a.*"), both.subject("b")] },
          { next_by_subj: ">", seq: end + 1, batch: 10 },
          { next_by_subj: both.subject("a.2"), seq: end },
          { last_by_subj: both.subject("a.1") },
        ],
      );
    }
    await both.multiLast([">"]);
  },

  "direct gets of one key": async (both) => {
    await both.create();
    await both.last("a");
    await both.write(put("a"));
    await both.write({ ...put("a.b", "conditional"), expected: 0 });
    for (const key of ["a", "a.b", "b", "a.*", ">", "c.>"]) await both.last(key);
    await both.read({ last_by_subj: both.subject("a.b") });
    await both.read({ last_by_subj: both.subject("a"), seq: 1 });
    await both.write(put("a", "later"));
    await both.last("a");
    // Sequences of several digits, headers that the message was published with, a key that is long.
    const long = `user.${"x".repeat(300)}`;
    await both.write({ ...put(long), expected: 0 });
    await both.write({ ...put("barrier.s1", "{}"), expected: both.sequenceOf(long), of: long });
    for (const key of [long, "barrier.s1"]) await both.last(key);
    for (const body of [
      {},
      { seq: 1 },
      { batch: 1 },
      { next_by_subj: ">" },
      { last_by_subj: both.subject("a") },
      { multi_last: [">"] },
      { max_bytes: 1 },
    ]) {
      await both.last("a", body);
    }
    await both.purge("a");
    await both.last("a");
  },

  "direct gets of one key beside writes": async (both) => {
    await both.create();
    for (let i = 0; i < 30; i++) {
      const change: Write = { ...put("user.a", `${i}`), expected: both.sequenceOf("user.a") };
      await both.writeBesideReads([change, put("user.b", `${i}`)], [], ["user.a", "user.b", "none"]);
    }
    await both.multiLast([">"]);
  },

  purges: async (both) => {
    await both.create();
    await both.purge("a");
    await both.purge();
    for (const key of ["a", "b.1", "b.2", "b.3", "c", "a"]) await both.write(put(key));
    for (const filter of ["a", "a", "b.*", "b.*", "none"]) await both.purge(filter);
    await both.api("STREAM.INFO");
    await both.write({ ...put("a"), expected: 0 });
    await both.multiLast([">"]);
    await both.purge(">");
    await both.multiLast([">"]);
    await both.write({ ...put("a"), expected: 0 });
    await both.multiLast([">"]);
    await both.purge();
    await both.api("STREAM.INFO");
  },

  "a purge beside a write": async (both) => {
    await both.create();
    for (let i = 0; i < 30; i++) {
      await both.write(put("a", "before"));
      await both.writeAndPurge(put("a", "beside"));
      await both.last("a");
      await both.api("STREAM.INFO");
    }
  },

  "a bucket that nobody may purge": async (both) => {
    await both.create(both.settings({ deny_purge: true }));
    await both.write(put("a"));
    await both.purge("a");
    await both.purge();
    await both.api("STREAM.INFO");
    await both.multiLast(["a"]);
  },

  "making, asking about and changing a stream": async (both) => {
    await both.api("STREAM.INFO");
    await both.api("STREAM.UPDATE", both.settings());
    await both.create();
    await both.api("STREAM.INFO");
    await both.api("STREAM.CREATE", both.settings());
    for (const changes of [
      { metadata: { "unibus-membership": "2" } },
      { deny_purge: true },
      { max_msgs_per_subject: 2 },
      { num_replicas: both.replicas === 3 ? 1 : 3 },
      { name: "KV_other" },
    ]) {
      await both.api("STREAM.CREATE", both.settings(changes));
    }
    for (let i = 0; i < 3; i++) await both.write(put(`a.${i}`));
    await both.api("STREAM.INFO");
    await both.api("STREAM.CREATE", both.settings());
    await both.api("STREAM.UPDATE", both.settings());
    for (const changes of [
      { storage: "memory" },
      { deny_delete: false },
      { name: "KV_other" },
      { metadata: { more: "1" } },
      { deny_purge: true },
      { deny_purge: false },
    ]) {
      await both.api("STREAM.UPDATE", both.settings(changes));
    }
    await both.api("STREAM.INFO");
    await both.purge();
    await both.multiLast([">"]);
    const few = `${both.stream}_few`;
    await both.api("STREAM.CREATE", { name: few, subjects: [`few.${both.bucket}.>`] }, few);
    await both.api("STREAM.INFO", undefined, few);
  },

  "a stream that does not allow direct gets any more": async (both) => {
    await both.create();
    await both.write(put("a"));
    await both.api("STREAM.UPDATE", both.settings({ allow_direct: false }));
    await both.untilNoDirectGets();
    await both.last("a");
    await both.multiLast(["a"]);
    await both.next(">", { seq: 1 });
    await both.write({ ...put("a"), expected: both.sequenceOf("a") });
    await both.api("STREAM.UPDATE", both.settings());
    // In a cluster each replica begins to answer in its own time.
    if (both.replicas === 1) await both.last("a");
  },

  "a stream that is removed and made anew": async (both) => {
    await both.create();
    for (const key of ["a", "b", "a"]) await both.write(put(key));
    await both.remove();
    await both.api("STREAM.INFO");
    await both.create();
    await both.api("STREAM.INFO");
    for (const expected of [3, 0]) await both.write({ ...put("a"), expected });
    await both.multiLast([">"]);
  },

  "a stream that is not there": async (both) => {
    await both.request(both.subject("a"), "1");
    await both.request(`$JS.API.DIRECT.GET.${both.stream}`, JSON.stringify({ multi_last: [both.subject("a")] }));
    await both.request(`$JS.API.DIRECT.GET.${both.stream}.${both.subject("a")}`);
    await both.purge("a");
    await both.api("STREAM.INFO");
    await both.request("$JS.API.INFO");
    await both.create();
    await both.request(`$KV.${both.bucket}`, "no key");
  },
};

/** Requests by chance, on few keys, so that they meet. */
export function randomScript(chance: Chance, requests: number): Script {
  const keys = ["a.1", "a.2", "a.3", "b.1", "b.2", "c", "barrier", "barrier.s1", "barrier.s2"] as const;
  const filters = [...keys, "a.*", "a.>", "b.*", "*", "*.1", ">", "none", "none.*"] as const;
  return async (both) => {
    const sequence = (key: string): number =>
      chance.happens(0.6) ? both.sequenceOf(key) : chance.happens(0.4) ? 0 : chance.below(both.lastSequence + 2);
    const write = (conditions: readonly [string, ...string[]]): Write => {
      const key = chance.of(keys);
      const data = "x".repeat(chance.below(chance.happens(0.2) ? 2000 : 40));
      if (chance.happens(0.35)) return { key, data };
      const of = chance.happens(0.4) ? chance.of(conditions) : undefined;
      return { key, data, expected: sequence(of ?? key), ...(of !== undefined && { of }) };
    };
    const size = (): { max_bytes?: number } => (chance.happens(0.4) ? { max_bytes: chance.below(1500) } : {});
    await both.create();
    for (let i = 0; i < requests; i++) {
      const dice = chance.next();
      if (dice < 0.3) await both.write(write(filters));
      // A server does not look whether what a wildcard matches is under way: two answers are right then.
      else if (dice < 0.45) await both.write(...Array.from({ length: 2 + chance.below(4) }, () => write(keys)));
      else if (dice < 0.65)
        await both.multiLast(
          Array.from({ length: 1 + chance.below(4) }, () => chance.of(filters)),
          size(),
        );
      else if (dice < 0.85)
        await both.next(chance.of(filters), {
          seq: chance.below(both.lastSequence + 3),
          ...(chance.happens(0.8) && { batch: 1 + chance.below(8) }),
          ...size(),
        });
      else if (dice < 0.93) await both.last(chance.of(filters));
      else if (dice < 0.98) await both.purge(chance.happens(0.9) ? chance.of(filters) : undefined);
      else await both.api("STREAM.INFO");
    }
  };
}
