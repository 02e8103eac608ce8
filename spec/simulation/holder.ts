/**
 * Somebody who holds sessions of a store, and what promise 19 says of them: none is active, nor has a signal that does
 * not abort, longer than it may be stale after something that took its grant away was acknowledged; and none ends
 * because of something that was not taken. What lets somebody in counts as a check; that a session goes on, as one that
 * may be so old.
 */
import type { Denial, Session, SessionOptions, Store } from "unibus-membership";
import { endpointName, roomId, userKey } from "./operations.js";
import { ALLOWLIST } from "./operations.js";
import type { Entry } from "./oracle.js";
import type { SimulatedProcess } from "./process.js";
import type { Surroundings } from "./watcher.js";

/** What a holder needs of the simulation beside what a watcher does. */
export interface HolderSurroundings extends Surroundings {
  readonly process: SimulatedProcess;
  now(): number;
  timeOf(tick: number): number;
  /** Nothing has gone wrong for long enough. */
  isCalm(): boolean;
  say(line: string): void;
}

const HELD_AT_ONCE = 3;
/** What a timer may be late by, and an answer that was on its way. */
const SLACK_MS = 10;

interface Held {
  readonly session: Session;
  readonly u: number;
  readonly isAdmin: boolean;
  readonly member: { readonly room: number; readonly e: number } | undefined;
  readonly maxStalenessMs: number;
  readonly invoked: number;
  readonly opened: number;
  /** It is never asked whether it is active: by its signal alone it is known. */
  readonly isSilent: boolean;
  wasOver: boolean;
  /** How long the process had run when the signal should have aborted. */
  dueRanMs: number | undefined;
}

export class SimulatedHolder {
  readonly #name: string;
  readonly #store: Store;
  readonly #around: HolderSurroundings;
  readonly #maxStalenessMs: number;

  /** To be made in the process of the store. It goes on for as long as that does. */
  constructor(name: string, store: Store, around: HolderSurroundings) {
    this.#name = name;
    this.#store = store;
    this.#around = around;
    this.#maxStalenessMs = around.chance.of([100, 400, 400, 1000, 3000]);
    for (let i = 0; i < HELD_AT_ONCE; i++) this.#open();
  }

  #open(): void {
    const { chance, taste, touched } = this.#around;
    const u = chance.happens(0.6) ? touched.u : chance.below(taste.userCount);
    const isAdmin = chance.happens(0.3);
    const member =
      taste.users < 1 && chance.happens(0.6)
        ? {
            room: chance.happens(0.6) ? touched.room : chance.below(taste.roomCount),
            e: chance.happens(0.6) ? touched.e : chance.below(taste.endpointCount),
          }
        : undefined;
    const maxStalenessMs = this.#maxStalenessMs * chance.of([1, 1, 2]);
    const options: SessionOptions = {
      maxStalenessMs,
      ...(isAdmin ? { role: "admin" } : {}),
      ...(member === undefined
        ? {}
        : { memberOf: [{ roomId: roomId(member.room), endpoint: endpointName(member.e) }] }),
    };
    const invoked = this.#around.tick();
    void this.#store.session(userKey(u), options).then((session) => {
      const opened = this.#around.tick();
      if (!session.allowed) {
        this.#denied(u, session, invoked, opened);
        return;
      }
      const isSilent = chance.happens(0.4);
      const held: Held = {
        session,
        u,
        isAdmin,
        member,
        maxStalenessMs,
        invoked,
        opened,
        isSilent,
        wasOver: false,
        dueRanMs: undefined,
      };
      this.#say(`is let in: ${nameOf(held)}, ${maxStalenessMs} ms`);
      this.#note(held, invoked, opened);
      session.signal.addEventListener("abort", () => {
        this.#aborted(held);
      });
      this.#later(held);
    });
  }

  #again(): void {
    const { chance, process } = this.#around;
    process.after(chance.between(1, 200), () => {
      this.#open();
    });
  }

  #denied(u: number, { reason }: Denial, invoked: number, returned: number): void {
    const isOfNobody = reason === "unknown" || reason === "revoked";
    if (isOfNobody) this.#noteAs(ALLOWLIST, { f: "authorize", u }, invoked, returned, reason);
    else if (reason === "expired" || reason === "ended" || reason === "malformed" || reason === "closed")
      this.#found("a session that is denied for no reason", `user ${u} is denied: ${reason}`);
    else if (
      this.#around.isCalm() &&
      this.#around.timeOf(invoked) > 0 &&
      (reason === "timeout" || reason === "unavailable")
    )
      this.#found("wedged", `a session of user ${u} is denied as ${reason} although nothing goes wrong any more`);
    this.#again();
  }

  /** Who is let in, or goes on, was allowed at some moment between. */
  #note({ u, isAdmin, member }: Held, invoked: number, returned: number): void {
    this.#noteAs(ALLOWLIST, { f: "authorize", u }, invoked, returned, "active");
    if (isAdmin) this.#noteAs(ALLOWLIST, { f: "isAdmin", u }, invoked, returned, "true");
    if (member !== undefined)
      this.#noteAs(roomId(member.room), { f: "isMember", e: member.e }, invoked, returned, "true");
  }

  #noteAs(at: string, op: Entry["op"], invoked: number, returned: number, out: string): void {
    this.#around.note({ store: `${this.#name} who holds sessions`, at, op, invoked, returned, out });
  }

  #say(what: string): void {
    this.#around.say(`${this.#name} who holds sessions ${what}`);
  }

  #found(kind: string, why: string): void {
    this.#around.found({ kind, why: `${this.#name}: ${why}`, id: "" });
  }

  #later(held: Held): void {
    const { chance, process } = this.#around;
    process.after(chance.between(2, Math.min(200, held.maxStalenessMs)), () => {
      if (held.session.signal.aborted) return;
      if (held.isSilent) this.#listen(held);
      else this.#look(held);
      this.#later(held);
    });
  }

  #look(held: Held): void {
    const { chance } = this.#around;
    if (!held.session.active) {
      held.wasOver = true;
      return;
    }
    const asOf = this.#around.tickAt(this.#around.now() - held.maxStalenessMs);
    const { wasOver, u } = held;
    if (wasOver) this.#found("a session that came back", `the one of user ${u}`);
    for (const { id, op, at, out, invoked, returned = Infinity } of this.#around.entries())
      if (out === "ok" && invoked > held.opened && returned < asOf && takes(held, at, op))
        this.#found(
          "a session that went on",
          `${id}, ${JSON.stringify(op)} on ${at}, took from user ${u} what it rests on more than ${held.maxStalenessMs} ms ago`,
        );
    if (asOf > held.invoked && chance.happens(0.1)) this.#note(held, asOf, this.#around.tick());
  }

  #listen(held: Held): void {
    const { process } = this.#around;
    const asOf = this.#around.tickAt(this.#around.now() - held.maxStalenessMs);
    const isDue = [...this.#around.entries()].some(
      ({ op, at, out, invoked, returned = Infinity }) =>
        out === "ok" && invoked > held.opened && returned < asOf && takes(held, at, op),
    );
    if (!isDue) return;
    held.dueRanMs ??= process.ranMs;
    if (process.ranMs - held.dueRanMs > SLACK_MS)
      this.#found("a signal that does not abort", `the one of user ${held.u}, with ${held.maxStalenessMs} ms`);
  }

  #aborted(held: Held): void {
    const why: unknown = held.session.signal.reason;
    const { reason } = (why as { readonly denial: Denial }).denial;
    this.#say(`is out: ${nameOf(held)}, ${reason}`);
    this.#again();
    if (reason === "timeout" || reason === "unavailable") {
      if (this.#around.isCalm() && held.maxStalenessMs >= 300)
        this.#found("a session that ended although nothing goes wrong", `the one of user ${held.u}: ${reason}`);
      return;
    }
    const isExplained = [...this.#around.entries()].some(
      ({ op, at, out, returned = Infinity }) =>
        // A write whose caller has given up may be stored at any time after.
        (out !== "ok" || returned > held.invoked) && MAY_BE_DONE.has(out ?? "unknown") && mayTake(held, at, op),
    );
    if (!isExplained || reason === "unknown")
      this.#found("a session that ended for nothing", `the one of user ${held.u}: ${reason}`);
  }
}

const nameOf = ({ u, isAdmin, member }: Held): string =>
  `user ${u}${isAdmin ? ", as an admin" : ""}${member === undefined ? "" : `, with e${member.e} in room-${member.room}`}`;

const MAY_BE_DONE: ReadonlySet<string> = new Set(["ok", "unknown", "TIMEOUT", "UNAVAILABLE", "CLOSED", "INCOMPATIBLE"]);

/** Whether an operation took away what the session rests on. */
function takes({ u, isAdmin, member }: Held, at: string, op: Entry["op"]): boolean {
  switch (op.f) {
    case "revoke":
      return op.u === u;
    case "role":
      return isAdmin && op.u === u && op.role === "member";
    case "remove":
      return member !== undefined && at === roomId(member.room) && op.e === member.e;
    case "delete":
      return member !== undefined && at === roomId(member.room);
    case "add":
    case "authorize":
    case "create":
    case "first":
    case "get":
    case "getUser":
    case "hasAdmin":
    case "indexed":
    case "inRooms":
    case "isAdmin":
    case "isMember":
    case "join":
    case "keys":
    case "list":
    case "listed":
    case "member":
    case "name":
    case "owner":
    case "put":
    case "reinstate":
    case "rekey":
    case "rename":
      return false;
  }
}

/** A demotion and a promotion at once cannot be told from a revocation that was given back. */
const mayTake = (held: Held, at: string, op: Entry["op"]): boolean =>
  takes(held, at, op) || (op.f === "role" && op.u === held.u && op.role === "member");
