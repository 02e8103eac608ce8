// What stands in front of every backend: time, closing, rules, proofs of stores that somebody else wrote.

import { bySpec, type Mutant } from "./mutant.js";

export const coreMutants: readonly Mutant[] = [
  {
    name: "an answer after the deadline is taken",
    file: "lib/call.ts",
    find: "if (this.remaining() <= 0) {",
    replace: "if (false) {",
    breaks: "A late answer is discarded, never counted as an allow.",
    killedBy: bySpec("spec/authorization.spec.ts", "an answer that comes late because the store blocked the process"),
  },
  {
    name: "a closed store checks",
    file: "lib/membership-store.ts",
    find: "if (this.#closing !== undefined) return Promise.resolve(false);",
    replace: "",
    breaks: "After close, and while closing, every check denies.",
    killedBy: bySpec("spec/conformance/sqlite.spec.ts", "closing: every method"),
  },
  {
    name: "another user's proof",
    file: "lib/authorization.ts",
    find: "if (user.key !== key || user.status",
    replace: "if (user.status",
    breaks: "What somebody else's store says is believed only as a proof about the user that was asked for.",
    killedBy: bySpec("spec/authorization.spec.ts", "is no proof"),
  },
  {
    name: "allowed at the instant of expiry",
    file: "lib/rules.ts",
    find: "now < user.expiresAt);",
    replace: "now <= user.expiresAt);",
    breaks: "A user is allowed up to expiresAt, and not at it.",
    killedBy: bySpec("spec/expiry.spec.ts"),
  },
  {
    name: "a call whose time was over is told CLOSED",
    file: "lib/call.ts",
    find: "if (closed && call.remaining() > 0) call.end",
    replace: "if (closed) call.end",
    breaks: "A closing store ends with CLOSED only what still had time.",
    killedBy: bySpec("spec/sqlite/disk-errors.spec.ts", "whose time is over before a closing store ends it"),
  },
  {
    name: "a rekey has the time of one record",
    file: "lib/membership-store.ts",
    find: `this.#call("write", many,`,
    replace: `this.#call("write", one,`,
    breaks: "A rekey has ten times the time of a call on one record.",
    killedBy: bySpec("spec/times.spec.ts", "rekey"),
  },
  {
    name: "a SQLite file has the time of one record to open",
    file: "lib/sqlite/open.ts",
    find: "const OPENING = 10;",
    replace: "const OPENING = 1;",
    breaks: "Opening has ten times the time of a call on one record.",
    killedBy: bySpec("spec/times.spec.ts", "opening"),
  },
  {
    name: "buckets have the time of one record to open",
    file: "lib/jetstream/open.ts",
    find: "const MANY = 10;",
    replace: "const MANY = 1;",
    breaks: "Opening has ten times the time of a call on one record.",
    killedBy: bySpec("spec/times.spec.ts", "opening"),
  },
  {
    name: "lists have the time of one record",
    file: "lib/membership-store.ts",
    find: "this.#manyMs = opTimeoutMs * MANY;",
    replace: "this.#manyMs = opTimeoutMs;",
    breaks: "Lists and rekey have ten times the time of a call on one record.",
    killedBy: bySpec("spec/times.spec.ts", "lists"),
  },
];
