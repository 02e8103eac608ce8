// The JetStream backend: the arguments of docs/protocol.md.

import { bySpec, type Mutant } from "./mutant.js";

const copy = (test: string) => bySpec("spec/jetstream/copy.spec.ts", test);
const copyFaults = (test: string) => bySpec("spec/jetstream/copy-faults.spec.ts", test);
const crashPoints = (operation: string) => bySpec("spec/jetstream/crash-points.spec.ts", `${operation}: held at its k-th write`);

export const jetStreamMutants: readonly Mutant[] = [
  {
    name: "a barrier that was sent before the check began",
    file: "lib/jetstream/quorum.ts",
    find: "(waiter) => waiter.since < number",
    replace: "(waiter) => waiter.since <= number",
    breaks: "A check takes only a barrier that was sent after it began.",
    killedBy: copyFaults("a barrier that was on its way when a check began"),
    chance: true,
  },
  {
    name: "an acknowledgement not above what was seen",
    file: "lib/jetstream/quorum.ts",
    find: `ack.kind === "stored" && ack.seq > seen`,
    replace: `ack.kind === "stored"`,
    breaks: "An acknowledgement of another log proves nothing of this one.",
    killedBy: copy("made anew is not the one whose users are kept"),
    chance: true,
  },
  {
    name: "a read from before a change is kept",
    file: "lib/jetstream/copy.ts",
    find: "found.upTo >= this.#quiet",
    replace: "found.upTo >= 0",
    breaks: "A read is kept only if nothing but barriers was stored between it and the copy's moment.",
    killedBy: copy("checks that are under way all the while"),
    chance: true,
  },
  {
    name: "a copy that was not needed for a while is not looked at",
    file: "lib/jetstream/copy.ts",
    find: "else this.#unsure = true;",
    replace: "",
    breaks: "Another log could have taken the place of the one that is known: the copy is looked at before it is believed.",
    killedBy: copy("after a while without checks"),
    chance: true,
  },
  {
    name: "an answer of which a part is missing",
    file: "lib/jetstream/bucket.ts",
    find: "if (message.before !== before) return false;",
    replace: "",
    breaks: "Each message of an answer names the one before it: what was lost on the way is noticed.",
    killedBy: copyFaults("of which a part was lost"),
  },
  {
    name: "a write that was sent says none",
    file: "lib/jetstream/bucket.ts",
    find: `if (before !== undefined && kind === "commit") call.outcome = "unknown";`,
    replace: "",
    breaks: "What may have been stored is never said to be surely not done.",
    killedBy: bySpec("spec/jetstream/answers.spec.ts", "may not hear the answer"),
  },
  {
    name: "rows older than the room's record",
    file: "lib/jetstream/room-log.ts",
    find: "early.upTo >= room.record.membersSeq ? early",
    replace: "true ? early",
    breaks: "Rows are taken only from a replica that is at or after the record's membersSeq.",
    killedBy: bySpec("spec/jetstream/stale-reads.spec.ts", "is no member to a replica that lags"),
  },
  {
    name: "an endpoint twice in a head",
    file: "lib/jetstream/member-changes.ts",
    find: " || endpoints.has(item.endpoint)",
    replace: "",
    breaks: "A head has one row for each endpoint: a second change of it goes by what the first leaves.",
    killedBy: bySpec("spec/conformance/jetstream-r1.spec.ts", "nats 2.29 at once"),
    chance: true,
  },
  {
    name: "a key is put without a barrier",
    file: "lib/jetstream/room-keys.ts",
    find: "await rooms.fresh(call), call);\n      rules.checkPut",
    replace: "0, call);\n      rules.checkPut",
    breaks: "Nothing holds the write of a key against the room's record: what it goes by is read behind a barrier.",
    killedBy: bySpec("spec/jetstream/stale-reads.spec.ts", ": "),
  },
  {
    name: "the sweep takes an attempt under way for dead",
    file: "lib/jetstream/sweep.ts",
    find: `if (row === undefined) return "open";`,
    replace: `if (row === undefined) return "dead";`,
    breaks: "What a live attempt staged is removed only when its commit was made impossible.",
    killedBy: crashPoints("members.add with a key"),
  },
  {
    name: "a stage that can still be committed is written over",
    file: "lib/jetstream/users.ts",
    find: "|| seq > stage.guard) return true;",
    replace: "|| seq >= stage.guard) return true;",
    breaks: "A stage is not written over while it can still be committed.",
    killedBy: crashPoints("users.revoke an admin"),
  },
  {
    name: "buckets that may be purged",
    file: "lib/jetstream/buckets.ts",
    find: "deny_purge: KEPT.some((kept) => name.endsWith(kept)),",
    replace: "deny_purge: false,",
    breaks: "Nothing is ever removed from rooms and users: a tombstone, and a revocation, is a record.",
    killedBy: bySpec("spec/jetstream/buckets.spec.ts", "purge"),
  },
  {
    name: "done before all replicas hold it",
    file: "lib/jetstream/rollout.ts",
    find: "&& holds >= replicas ? steady",
    replace: "? steady",
    breaks: "A bucket is said to have its replicas only when all of them hold it.",
    killedBy: bySpec("spec/jetstream/rollout.spec.ts", "a replica that hangs"),
  },
];
