// The arguments of docs/protocol.md, one each, as the simulation has to notice them within a minute, or a few: whatever
// real servers cannot be made to do, it does. docs/simulation.md has the times.

import type { Mutant, SimulationKiller } from "./mutant.js";

const bySimulation: SimulationKiller = { kind: "simulation", seconds: 60 };
const bySimulationInTime: SimulationKiller = { kind: "simulation", seconds: 240 };

interface Change extends Omit<Mutant, "killedBy" | "chance"> {
  /** The fault without which hardly anything can notice it. */
  readonly with?: string;
}

const noticed = (killer: SimulationKiller, { with: fault, ...change }: Change): Mutant => ({
  ...change,
  killedBy: fault === undefined ? killer : { ...killer, with: fault },
  chance: true,
});

const changes: readonly Change[] = [
  {
    name: "simulated: keys from before the room's record",
    file: "lib/jetstream/room-keys.ts",
    find: `const min = freshness === "any" ? record.keysSeq :`,
    replace: `const min = freshness === "any" ? 0 :`,
    breaks: "A list of keys comes from a replica that is at or after the record's `keysSeq`.",
  },
  {
    name: "simulated: an answer from before the barrier",
    file: "lib/jetstream/batched-reads.ts",
    find: "if (found.upTo < read.min) {",
    replace: "if (found.upTo < 0) {",
    breaks: "A read counts only at or after the barrier, or whatever else its reader needs.",
    with: "listings",
  },
  {
    name: "simulated: a catch-up with a gap",
    file: "lib/jetstream/exact-cache.ts",
    find: "if (seq > before + 1) {",
    replace: "if (seq < 0) {",
    breaks: "A replica that catches up from a snapshot drops what was superseded before it has what superseded it.",
    with: "snapshots",
  },
  {
    name: "simulated: a barrier that is not the next one",
    file: "lib/jetstream/exact-cache.ts",
    find: "if (this.#own.hasAll(this.#asOf + 1, seq)) this.#asOf = later(this.#asOf, seq);",
    replace: "this.#asOf = later(this.#asOf, seq);",
    breaks: "Between the cache's moment and the barrier nothing else was stored, or it is read.",
  },
  {
    name: "simulated: a change that was taken since the check looked",
    file: "lib/jetstream/exact-cache.ts",
    find: "    this.#changes++;\n    this.#cache.put(entry, generation);",
    replace: "    this.#cache.put(entry, generation);",
    breaks: "A check uses what it found before its barrier only where nothing was kept since.",
    with: "overtakes",
  },
  {
    name: "simulated: a proof that the cache has not come to",
    file: "lib/jetstream/proof-age.ts",
    find: "while (this.#waiting[0] !== undefined && this.#waiting[0].seq <= asOf) this.#reached = this.#waiting.shift();\n    return this.#reached === undefined || this.#reached.seq > asOf ?",
    replace:
      "while (this.#waiting[0] !== undefined) this.#reached = this.#waiting.shift();\n    return this.#reached === undefined ?",
    breaks: "A barrier proves nothing to a cache that has not come to it, however young it is.",
    with: "leases",
  },
  {
    name: "simulated: a new generation that forgets nothing",
    file: "lib/jetstream/exact-cache.ts",
    find: "this.#generation++;",
    replace: "",
    breaks: "Where a gap stays, no record is known to be as it stands any more.",
  },
  {
    name: "simulated: a fence that was refused",
    file: "lib/jetstream/fences.ts",
    find: `return REFUSED;\n      case "failed":`,
    replace: `return { at: seen + 1 };\n      case "failed":`,
    breaks: "A fence that was refused proves nothing.",
  },
  {
    name: "simulated: a change upon a row that is not the last one",
    file: "lib/jetstream/room-log.ts",
    find: "applied === undefined || !isAsRead",
    replace: "applied === undefined",
    breaks: "The row that a change follows upon is fenced before the commit.",
  },
  {
    name: "simulated: a head of the guard that is not put in place",
    file: "lib/jetstream/admin-guard.ts",
    find: "if (before.seq < head.seq) before = readUser((await this.#bucket.readLinearizable(recordKey, call)).entry);",
    replace: "",
    breaks: "A replica that has the user's record from before the stage says nothing of whether it was put in place.",
  },
  {
    name: "simulated: a write that is not found was not stored",
    file: "lib/jetstream/bucket.ts",
    find: "return (await this.readLinearizable(key, call)).entry;\n  }\n\n  /** Removes",
    replace: "return this.get(key, call);\n  }\n\n  /** Removes",
    breaks:
      "A record that is not found after a refusal is asked for again, until the leader says that it is not there.",
  },
  {
    name: "simulated: what a replica misses is not there",
    file: "lib/jetstream/bucket.ts",
    find: "const asOf = await this.fence(key, entry?.seq ?? 0, call);",
    replace: "const asOf: number | undefined = (await this.fence(key, entry?.seq ?? 0, call)) ?? this.highestSeen;",
    breaks: "That something is not there is said only when the leader has acknowledged it.",
  },
  {
    name: "simulated: a refusal on a stale read, of a user",
    file: "lib/jetstream/freshness.ts",
    find: `if (mustLookAgain(ANY, error)) return "refused";`,
    replace: "",
    breaks: "What a replica that lags says is no reason to refuse.",
  },
  {
    name: "simulated: a refusal on a stale read, of a member",
    file: "lib/jetstream/member-changes.ts",
    find: "if (mustLookAgain(round, error)) {",
    replace: "if (mustLookAgain(round, error) && v < 0) {",
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
    find: "changes === undefined ? undefined : this.#apply(room, call)",
    replace: "changes === undefined ? undefined : new Map<string, number>()",
    breaks: "A head stands in `members` before the next one takes its place.",
  },
  {
    name: "simulated: a stage is written over",
    file: "lib/jetstream/admin-guard.ts",
    find: "if (guard.head?.attempt === stage.attempt || seq > stage.guard) return true;",
    replace: "if (seq > 0) return true;",
    breaks: "A stage that the guard can still commit is fenced off before it is written over.",
  },
  {
    name: "simulated: a committed change of an admin is lost",
    file: "lib/jetstream/admin-guard.ts",
    find: "const apply = last === undefined || last.user.key === key ? Promise.resolve() : this.#apply(last, call);",
    replace:
      "const apply = last === undefined || last.user.key === key ? Promise.resolve() : Promise.resolve(call.throwIfEnded());",
    breaks: "The guard gets another head only after the one before stands in its user's record.",
  },
  {
    name: "simulated: the last admin goes",
    file: "lib/jetstream/admin-guard.ts",
    find: "if (!others.some((witness) => now < untilOf(witness))) throw rules.lastAdmin();",
    replace: "if (others.length > MAX_WITNESSES) throw rules.lastAdmin();",
    breaks: "At least one active admin remains.",
  },
  {
    name: "simulated: a sweep without a fence",
    file: "lib/jetstream/sweep.ts",
    find: "const fenced = open.length === 0 || (await this.#records.fence(roomId, slot, call));",
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
    file: "lib/jetstream/write-history.ts",
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
    find: "indexEntry: (own) => membersByEndpoint.stage(indexEntry, {}, own),",
    replace: "indexEntry: (own) => Promise.resolve(own.remaining()),",
    breaks: "For every member there is an index entry, written before the commit.",
  },
  {
    name: "simulated: a list that does not count",
    file: "lib/jetstream/room-members.ts",
    find: "if (v === record.v && present.size === record.members) return",
    replace: "if (v >= record.v) return",
    breaks: "A list of members is one version of the room, whole.",
  },
  {
    name: "simulated: a key put by a stale read",
    file: "lib/jetstream/room-keys.ts",
    find: "endpoint, CERTAIN, call);\n      const rules",
    replace: `endpoint, { ...CERTAIN, freshness: "any" }, call);\n      const rules`,
    breaks: "Nothing holds a put against the room's record: what it goes by is certain.",
  },
  {
    // Only a replica in the middle of a snapshot leaves a gap where something else stood than a barrier.
    name: "simulated: a list of barriers that overstates",
    file: "lib/jetstream/sequence-window.ts",
    find: "if (!this.#has(this.#top - bit)) continue;",
    replace: "if (this.#top < bit) continue;",
    breaks: "A barrier tells only of barriers: whatever it tells of may be missing from what others read of the log.",
    with: "snapshots",
  },
  {
    // Only a replica in the middle of a snapshot has dropped a record, and not what superseded it.
    name: "simulated: a list of users without what changed meanwhile",
    file: "lib/jetstream/user-pages.ts",
    find: "if (missed.length === 0) return scanned;",
    replace: "return scanned;",
    breaks: "A list of users misses nobody who is there throughout.",
    with: "snapshots",
  },
  {
    // Few schedules have a stream that is restored: of the others none can notice.
    name: "simulated: a log that has gone back is believed",
    file: "lib/jetstream/log.ts",
    find: "    return this.isDoubted;\n",
    replace: "    return false;\n",
    breaks: "A store that was open does not believe a bucket that was restored, however far it gets.",
    with: "restores",
  },
  {
    // Most schedules do not come to these: a barrier has to prove less than what its store is asked just then.
    name: "simulated: a barrier from before the check",
    file: "lib/jetstream/barrier.ts",
    find: "(waiter) => waiter.since >= number",
    replace: "(waiter) => waiter.since > number",
    breaks: "A check takes only a barrier that was sent after it began.",
    with: "overtakes",
  },
  {
    name: "simulated: what is proved late is kept over a change",
    file: "lib/jetstream/exact-cache.ts",
    find: "this.#fills.set(key, { count: 1, changed: 0 });",
    replace: "this.#fills.delete(key);",
    breaks: "What the log says of a record while it is being proved is kept.",
    with: "overtakes",
  },
  {
    // Of what the room's head tells too, no row is needed.
    name: "simulated: a row from before the record's demand",
    file: "lib/jetstream/joined-rows.ts",
    find: "if (known !== undefined && known.asOf >= needed) return known;",
    replace: "if (known !== undefined) return known;",
    breaks: "A row that is kept counts up to the fence that proved it.",
    with: "buried",
  },
  {
    name: "simulated: rows from before the room's record",
    file: "lib/jetstream/room-members.ts",
    find: "keys.membersMark(roomId, record.roster),\n      record.membersSeq,",
    replace: "keys.membersMark(roomId, record.roster),\n      0,",
    breaks: "Rows are taken only from a replica that is at or after the record's `membersSeq`.",
    with: "buried",
  },
];

/** What only those notice who watch a store. */
const watched: readonly Change[] = [
  {
    name: "simulated: a gap behind which nothing is looked for",
    file: "lib/jetstream/log-range.ts",
    find: "if (gaps.length === 0) return { upTo: end, entries };",
    replace: "return { upTo: end, entries };",
    breaks: "What superseded a record may stand behind the barrier: another pass reads on from there.",
  },
  {
    name: "simulated: a gap that the leader is not asked about",
    file: "lib/jetstream/log-range.ts",
    find: "const { end, gaps } = explain(bucket, from, upTo, read);",
    replace: "const { end, gaps } = { ...explain(bucket, from, upTo, read), gaps: [] as Gap[] };",
    breaks: "A replica that catches up from a snapshot has gaps where the leader has none.",
  },
  {
    name: "simulated: a gap that is explained by what is not taken",
    file: "lib/jetstream/log-range.ts",
    find: "if (entry.seq > end || isBarrier(entry.key)) continue;",
    replace: "if (entry.seq > upTo || isBarrier(entry.key)) continue;",
    breaks: "What stands behind the barrier explains a gap only if it is told too.",
  },
  {
    name: "simulated: a grant that ended and is not told",
    file: "lib/jetstream/changes-feed.ts",
    find: "row.grant > 0 : row.grant !== before;",
    replace: "row.grant > 0 : row.grant < before;",
    breaks: "Between two grants of one user an event says that the first one ended.",
  },
];

/** What only those notice who hold sessions of a store. */
const held: readonly Change[] = [
  {
    name: "simulated: a grant that is read behind the mark alone",
    file: "lib/jetstream/grants-feed.ts",
    find: "    await this.#roomsMark(call);\n    try {",
    replace: "    try {",
    breaks: "The log `rooms` is followed from before the first membership is read.",
  },
  {
    name: "simulated: a change of the guard that is no grant's",
    file: "lib/jetstream/grants-feed.ts",
    find: "const isNew = head !== undefined && head.attempt",
    replace: "const isNew = head !== undefined && head.attempt === undefined && head.attempt",
    breaks: "The guard commits changes of records that stand as they did.",
  },
  {
    name: "simulated: a head of the guard that was told before",
    file: "lib/jetstream/grants-feed.ts",
    find: "&& head.attempt !== this.#users.guard.head?.attempt;",
    replace: ";",
    breaks: "A head of the guard that is not new may be older than its user's record.",
  },
  {
    name: "simulated: a room whose head tells of one change too few",
    file: "lib/jetstream/grants-feed.ts",
    find: "(record?.v ?? Infinity) <= (told?.v ?? 0) + 1;",
    replace: "(record?.v ?? Infinity) <= (told?.v ?? 0) + 1000;",
    breaks: "A room that changed more than once since it was told is read whole.",
  },
  {
    name: "simulated: a mark at a barrier that another log may have acknowledged",
    file: "lib/jetstream/grants-feed.ts",
    find: "earlier(found.upTo, upTo)",
    replace: "found.upTo",
    breaks: "What is read for sessions goes on from where the log is surely the known one.",
  },
  {
    name: "simulated: a proof that is taken for as old as its answer",
    file: "lib/sessions/hub.ts",
    find: "if (this.#proved !== undefined && msSince(this.#proved) < maxStalenessMs) return undefined;",
    replace: "if (this.#proved !== undefined && msSince(this.#proved) < 2 * maxStalenessMs) return undefined;",
    breaks: "A session is active while its proof is younger than it may be.",
  },
];

/** What is noticed only where the store is moved elsewhere meanwhile. */
const moved: readonly Change[] = [
  {
    name: "moved: a write that is acknowledged behind the fence",
    file: "lib/jetstream/proved-bucket.ts",
    find: "this.#writes.landmark = id;\n        await this.checkOpen(seq, call);",
    replace: "this.#writes.landmark = id;",
    breaks: "A write is acknowledged only if it stands before the record that closes the store.",
  },
  {
    name: "moved: a check of a user behind the fence",
    file: "lib/jetstream/checks.ts",
    find: "const opened = this.#users.checkOpen(found.asOf, call);",
    replace: "const opened = this.#users.checkOpen(0, call)?.catch(() => undefined);",
    breaks: "A check is proved only as of a place of the log at which the store is open.",
  },
  {
    name: "moved: a check of a member behind the fence",
    file: "lib/jetstream/room-members.ts",
    find: "const opened = rooms.checkOpen(proved?.asOf ?? rooms.highestSeen, call);",
    replace: "const opened = rooms.checkOpen(0, call)?.catch(() => undefined);",
    breaks: "Each log that commits has a fence of its own.",
  },
  {
    name: "moved: a decision of a store that was moved",
    file: "lib/jetstream/proved-bucket.ts",
    find: "if (!isFinal(found) || (await this.wasOpen(since, call))) return found;",
    replace: "if (!isFinal(found) || since >= 0) return found;",
    breaks: "That there is nothing to change is said only by a store that is open.",
  },
  {
    name: "moved: a refusal of a store that was moved",
    file: "lib/jetstream/proved-bucket.ts",
    find: "if (!isRefusal(error) || (await this.wasOpen(since, call))) throw error;",
    replace: "if (!isRefusal(error) || since >= 0) throw error;",
    breaks: "A refusal rests on records of a store that is open.",
  },
  {
    name: "moved: no last round behind the fence",
    file: "lib/transfer/migrate.ts",
    find: "await this.#bring(writer, await this.#changed(feed, before));",
    replace: "await this.#bring(writer, before);",
    breaks: "What is changed up to the fence goes over.",
  },
  {
    name: "moved: the barrier of the last round is sent before the fence",
    file: "lib/transfer/migrate.ts",
    find: `await source.work.step((call) => moving.fence(this.#run(target), call));
      await this.#bring(writer, await this.#changed(feed, before));`,
    replace: `const late = await this.#changed(feed, before);
      await source.work.step((call) => moving.fence(this.#run(target), call));
      await this.#bring(writer, late);`,
    breaks: "What is acknowledged stands before a barrier that is sent after the fence.",
  },
  {
    name: "moved: the log of the rooms has no fence",
    file: "lib/jetstream/moving.ts",
    find: "await writeState(this.#parts.log.buckets.rooms, record, rooms.seq, call);\n    // From here",
    replace:
      'await writeState(this.#parts.log.buckets.rooms, { ...record, state: "open" }, rooms.seq, call);\n    // From here',
    breaks: "A fence is a record in each log that commits.",
  },
  {
    name: "moved: a fence without settings",
    file: "lib/jetstream/moving.ts",
    find: "nobody writes either who does not know of states.\n    await this.#parts.settings.follow(call);",
    replace: "nobody writes either who does not know of states.",
    breaks: "A store that knows of no state gets nothing acknowledged that is left behind.",
    with: "oldStores",
  },
  {
    name: "moved: a target that opens before the source's end",
    file: "lib/transfer/pair.ts",
    find: `await source.step("leave", id, report);`,
    replace: "",
    breaks: "The target opens after the source was seen to be leaving.",
  },
];

export const simulationMutants: readonly Mutant[] = [
  ...moved.map((change) => noticed({ ...bySimulationInTime, migrate: true }, change)),
  ...watched.map((change) => noticed({ ...bySimulationInTime, watch: true }, change)),
  ...held.map((change) => noticed({ ...bySimulationInTime, sessions: true }, change)),
  ...changes.map((change) => noticed(bySimulation, change)),
];
