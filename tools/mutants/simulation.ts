// The arguments of docs/protocol.md, one each, as the simulation has to notice them within a minute: whatever real servers
// cannot be made to do, it does. docs/simulation.md has the times.

import type { Mutant, SimulationKiller } from "./mutant.js";

const bySimulation: SimulationKiller = { kind: "simulation", seconds: 60 };

type Change = Omit<Mutant, "killedBy" | "chance">;

const changes: readonly Change[] = [
  {
    name: "simulated: a barrier from before the check",
    file: "lib/jetstream/quorum.ts",
    find: "(waiter) => waiter.since < number",
    replace: "(waiter) => waiter.since <= number",
    breaks: "A check takes only a barrier that was sent after it began.",
  },
  {
    name: "simulated: rows from before the room's record",
    file: "lib/jetstream/room-log.ts",
    find: "const rows = early.upTo >= room.record.membersSeq ? early",
    replace: "const rows = early.upTo >= 0 ? early",
    breaks: "Rows are taken only from a replica that is at or after the record's `membersSeq`.",
  },
  {
    name: "simulated: keys from before the room's record",
    file: "lib/jetstream/room-keys.ts",
    find: "const min = Math.max(keysMin, record.keysSeq);",
    replace: "const min = Math.min(keysMin, record.keysSeq);",
    breaks: "A list of keys comes from a replica that is at or after the record's `keysSeq`.",
  },
  {
    name: "simulated: an answer from before the barrier",
    file: "lib/jetstream/bucket.ts",
    find: "if (found.upTo < read.min) {",
    replace: "if (found.upTo < 0) {",
    breaks: "A read counts only at or after the barrier, or whatever else its reader needs.",
  },
  {
    name: "simulated: a catch-up with a gap",
    file: "lib/jetstream/copy.ts",
    find: "if (!this.#barriers.hasAll(end + 1, seq - 1)) {",
    replace: "if (end < 0) {",
    breaks: "A replica that catches up from a snapshot drops what was superseded before it has what superseded it.",
  },
  {
    name: "simulated: a barrier that is not the next one",
    file: "lib/jetstream/copy.ts",
    find: "} else if (seq > this.#at && this.#barriers.hasAll(this.#at + 1, seq)) {",
    replace: "} else if (seq > this.#at) {",
    breaks: "Between the copy's moment and the barrier nothing else was stored, or it is read.",
  },
  {
    name: "simulated: a read from before a change is kept",
    file: "lib/jetstream/copy.ts",
    find: "found.upTo >= this.#quiet",
    replace: "found.upTo >= 0",
    breaks: "A read is kept only if nothing but barriers was stored between it and the copy's moment.",
  },
  {
    name: "simulated: what a replica misses is not there",
    file: "lib/jetstream/bucket.ts",
    find: "return absent.every((is) => is);",
    replace: "return absent.length >= 0;",
    breaks: "That something is not there is said only when the leader has acknowledged it.",
  },
  {
    name: "simulated: a refusal on a stale read, of a user",
    file: "lib/jetstream/users.ts",
    find: "if (fresh || !rules.isRefusal(error)) throw error;",
    replace: "throw error;",
    breaks: "What a replica that lags says is no reason to refuse.",
  },
  {
    name: "simulated: a refusal on a stale read, of a member",
    file: "lib/jetstream/member-changes.ts",
    find: "if (isRefusal(error) && !fresh) {",
    replace: "if (isRefusal(error) && min < 0) {",
    breaks: "What a replica that lags says is no reason to refuse.",
  },
  {
    name: "simulated: a head applied without its condition",
    file: "lib/jetstream/room-log.ts",
    find: `const seq = await members.write(key, toJson(head.row), head.after, call, (entry) => sameRow(entry, head), "step");`,
    replace: "const seq: number | undefined = await members.stage(key, toJson(head.row), call);",
    breaks: "Who wakes late puts a head's row under the condition of the sequence before it.",
  },
  {
    name: "simulated: a head that is not applied",
    file: "lib/jetstream/room-log.ts",
    find: "changes === undefined ? undefined : this.#apply(room, call));",
    replace: "changes === undefined ? undefined : new Map<string, number>());",
    breaks: "A head stands in `members` before the next one takes its place.",
  },
  {
    name: "simulated: a stage is written over",
    file: "lib/jetstream/users.ts",
    find: "if (stage === undefined || guard.head?.attempt === stage.attempt || seq > stage.guard) return true;",
    replace: "if (stage === undefined || seq > 0) return true;",
    breaks: "A stage that the guard can still commit is fenced off before it is written over.",
  },
  {
    name: "simulated: a committed change of an admin is lost",
    file: "lib/jetstream/users.ts",
    find: "const apply = head === undefined || head.user.key === key ? Promise.resolve() : this.#apply(head, call);",
    replace: "const apply = head === undefined || head.user.key === key ? Promise.resolve() : Promise.resolve(call.check());",
    breaks: "The guard gets another head only after the one before stands in its user's record.",
  },
  {
    name: "simulated: the last admin goes",
    file: "lib/jetstream/users.ts",
    find: "if (!others.some((witness) => now < untilOf(witness))) throw rules.lastAdmin();",
    replace: "if (others.length > MAX_WITNESSES) throw rules.lastAdmin();",
    breaks: "At least one active admin remains.",
  },
  {
    name: "simulated: a sweep without a fence",
    file: "lib/jetstream/sweep.ts",
    find: "const fenced = open.length === 0 || (await this.#log.fence(roomId, slot, call));",
    replace: "const fenced = open.length >= 0;",
    breaks: "An attempt is made unable to commit before what it staged is removed.",
  },
  {
    name: "simulated: two rekeys of an epoch share their keys",
    file: "lib/jetstream/room-keys.ts",
    find: "const attempt = newId();\n      const epoch = record.epoch + 1;",
    replace: "const attempt = record.incarnation;\n      const epoch = record.epoch + 1;",
    breaks: "Keys of a rekey stand under an attempt of its own: no key of a loser is ever returned.",
  },
  {
    name: "simulated: a loser's keys are seen",
    file: "lib/jetstream/room-keys.ts",
    find: "if (epoch <= record.epoch && attempts.get(epoch) === attempt)",
    replace: "if (epoch <= record.epoch && attempt !== undefined)",
    breaks: "Of each epoch only the keys of the attempt that made it are shown.",
  },
  {
    name: "simulated: a lost acknowledgement counts as a refusal",
    file: "lib/jetstream/records.ts",
    find: `if (now.log.includes(id) || now.first === id) return "yes";`,
    replace: `if (now.log.length > LOG) return "yes";`,
    breaks: "An operation that finds its own attempt committed has succeeded.",
  },
  {
    name: "simulated: an outcome that is not known says none",
    file: "lib/jetstream/bucket.ts",
    find: `if (before !== undefined && kind === "commit") call.outcome = "unknown";`,
    replace: "",
    breaks: "What may have been stored is never said to be surely not done.",
  },
  {
    name: "simulated: an index entry behind its membership",
    file: "lib/jetstream/members.ts",
    find: "hint: (own) => membersByEndpoint.stage(hint, {}, own),",
    replace: "hint: (own) => Promise.resolve(own.remaining()),",
    breaks: "For every member there is an index entry, written before the commit.",
  },
  {
    name: "simulated: a list that does not count",
    file: "lib/jetstream/room-log.ts",
    find: "if (v === record.v && present.size === record.members) return",
    replace: "if (v >= record.v) return",
    breaks: "A list of members is one version of the room, whole.",
  },
  {
    name: "simulated: a key put by a stale read",
    file: "lib/jetstream/room-keys.ts",
    find: "await this.#log.member(roomId, endpoint, await rooms.fresh(call), call);\n      rules.checkPut",
    replace: "await this.#log.member(roomId, endpoint, rooms.seen * 0, call);\n      rules.checkPut",
    breaks: "Nothing holds a put against the room's record, so that it is read behind a barrier.",
  },
];

export const simulationMutants: readonly Mutant[] = changes.map((change) => ({ ...change, killedBy: bySimulation, chance: true }));
