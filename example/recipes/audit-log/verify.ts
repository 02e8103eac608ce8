/**
 * Says of each entry of an audit log whether the backend's log bears it out. It needs two files, and no backend:
 *
 *     node --import tsx verify.ts state.jsonl audit.jsonl
 *
 * - `confirmed`: the record stands as it stood then, and says what was answered.
 * - `superseded since`: the record was changed after the moment of the proof.
 * - `impossible`: there never was such a place or revision, or something newer stood there already.
 * - `unproved`: a denial for want of an answer, or of somebody of whom JetStream has no record.
 */
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import type { JetStreamProof, SqliteProof } from "unibus-membership";
import type { Entry } from "./audit.js";
import type { StateLine } from "./state.js";

export type Verdict = "confirmed" | "superseded since" | "impossible" | "unproved";

type Line<Field extends string> = Extract<StateLine, Readonly<Record<Field, unknown>>>;

export class State {
  readonly #places = new Map<string, Line<"of">>();
  readonly #users = new Map<string, Line<"user">>();
  readonly #rooms = new Map<string, Line<"room">>();
  #last: { readonly users: number; readonly rooms: number } | undefined;
  #lastTransaction: number | undefined;

  constructor(lines: Iterable<StateLine>) {
    for (const line of lines) {
      if ("of" in line) this.#places.set(`${line.of} ${line.name}`, line);
      else if ("user" in line) this.#users.set(line.user, line);
      else if ("room" in line) this.#rooms.set(line.room, line);
      else if (line.backend === "sqlite") this.#lastTransaction = line.last;
      else this.#last = line;
    }
  }

  verdictOf(entry: Entry): Verdict {
    const { proof } = entry;
    if (proof?.backend === "jetstream") return this.#ofJetStream(entry, proof);
    if (proof?.backend === "sqlite") return this.#ofSqlite(entry, proof);
    return "unproved";
  }

  #ofJetStream({ key, roomId, check }: Entry, { users, rooms }: JetStreamProof): Verdict {
    const [of, place] = users === undefined ? (["rooms", rooms] as const) : (["users", users] as const);
    if (place === undefined) return "unproved";
    const name = of === "rooms" ? roomId : check === "hasAdmin" ? "admins" : key;
    const record = this.#places.get(`${of} ${name ?? ""}`);
    const last = this.#last?.[of] ?? 0;
    const { seq, asOf } = place;
    if (record === undefined || asOf < seq || asOf > last || record.seq < seq) return "impossible";
    if (record.seq === seq) return "confirmed";
    // The proof says that nothing newer was stored up to `asOf`.
    const stood = [record.seq, ...record.before];
    if (stood.some((each) => each > seq && each <= asOf)) return "impossible";
    // As far back as the record tells, each of its places is known.
    return Math.min(...stood) <= seq && !stood.includes(seq) ? "impossible" : "superseded since";
  }

  #ofSqlite(entry: Entry, { transaction }: SqliteProof): Verdict {
    const at = Number.parseInt(transaction, 36);
    if (!(at <= (this.#lastTransaction ?? -1))) return "impossible";
    if (entry.check === "isMember") return this.#ofMember(entry, at);
    if (entry.check === "hasAdmin") return this.#ofAdmins(entry, at);
    const user = this.#users.get(entry.key ?? "");
    // No user is ever removed.
    if (user === undefined) return entry.reason === "unknown" ? "confirmed" : "impossible";
    if (isLater(user, at)) return "superseded since";
    const isAllowed = wasActive(user, entry) && (entry.check !== "isAdmin" || user.role === "admin");
    return isAllowed === entry.allowed ? "confirmed" : "impossible";
  }

  #ofMember({ roomId = "", endpoint = "", allowed }: Entry, at: number): Verdict {
    const room = this.#rooms.get(roomId);
    // A room that is gone may have been there then.
    if (room === undefined || isLater(room, at)) return "superseded since";
    return room.joined.includes(endpoint) === allowed ? "confirmed" : "impossible";
  }

  #ofAdmins(entry: Entry, at: number): Verdict {
    const users = [...this.#users.values()];
    if (users.some((user) => isLater(user, at))) return "superseded since";
    const isThere = users.some((user) => user.role === "admin" && wasActive(user, entry));
    return isThere === entry.allowed ? "confirmed" : "impossible";
  }
}

/** Time runs out without a transaction. Times are compared as text: all are in the same form. */
const wasActive = ({ status, expiresAt }: Line<"user">, { at }: Entry): boolean =>
  status === "active" && (expiresAt === undefined || at < expiresAt);

/** Whether it was written after that transaction. */
const isLater = ({ revision }: { readonly revision: string }, at: number): boolean =>
  Number.parseInt(revision, 36) > at;

const linesOf = <T>(text: string): T[] =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as T);

async function main([statePath, logPath]: readonly string[]): Promise<void> {
  if (statePath === undefined || logPath === undefined) throw new Error("usage: verify.ts state.jsonl audit.jsonl");
  const state = new State(linesOf<StateLine>(await readFile(statePath, "utf8")));
  const counts = new Map<Verdict, number>();
  for (const entry of linesOf<Entry>(await readFile(logPath, "utf8"))) {
    const verdict = state.verdictOf(entry);
    counts.set(verdict, (counts.get(verdict) ?? 0) + 1);
    const about = entry.key ?? [entry.roomId, entry.endpoint].filter((part) => part !== undefined).join(" ");
    console.log([verdict, entry.at, entry.check, about, entry.reason].filter((part) => part !== "").join("\t"));
  }
  console.log(JSON.stringify(Object.fromEntries(counts)));
  if (counts.has("impossible")) process.exitCode = 1;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main(process.argv.slice(2));
