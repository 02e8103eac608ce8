import type { Store } from "unibus-membership";
import { eventually, pause } from "../../support/wait.js";

/** What a check of these would have to be. */
export const CHECKS = ["isAuthorized", "isAdmin", "isMember", "hasAdmin"] as const;
export type Check = (typeof CHECKS)[number];

export interface Probe {
  readonly check: Check;
  readonly began: number;
  readonly ended: number;
  readonly allowed: boolean;
}

export interface Subject {
  readonly user: string;
  readonly room: string;
  readonly endpoint: string;
}

export const PROBE_TIMEOUT_MS = 1000;

/**
 * Between two probes of a kind, so that what they show is not that a machine is busy. What they look for lasts for seconds:
 * more of them are for the soak.
 */
const PAUSE_MS = process.env["UNIBUS_PROBE_SECONDS"] === undefined ? 100 : 40;

/** Asks all four checks of one store, over and over, until it is stopped. */
export class Probes {
  readonly #store: Store;
  readonly #subject: Subject;
  readonly #done: Promise<unknown>;
  #stopped = false;
  readonly all: Probe[] = [];

  constructor(store: Store, subject: Subject) {
    this.#store = store;
    this.#subject = subject;
    this.#done = Promise.all(CHECKS.map((check) => this.#loop(check)));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#done;
  }

  /** Those that began at `time` or later, and have ended. */
  since(time: number): Probe[] {
    return this.all.filter(({ began }) => began >= time);
  }

  /** Resolves when each check was answered so, begun at `time` or later. */
  async answer(allowed: boolean, since: number, withinMs = 15_000): Promise<void> {
    const missing = (): Check[] => {
      const answered = new Set(
        this.since(since)
          .filter((probe) => probe.allowed === allowed)
          .map(({ check }) => check),
      );
      return CHECKS.filter((check) => !answered.has(check));
    };
    await eventually(
      allowed ? "every check allows" : "every check denies",
      () => missing().length === 0,
      withinMs,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}: not ${missing().join(", ")}`);
    });
  }

  async #loop(check: Check): Promise<void> {
    while (!this.#stopped) {
      const began = performance.now();
      const allowed = await this.#ask(check);
      this.all.push({ check, began, ended: performance.now(), allowed });
      await pause(PAUSE_MS);
    }
  }

  #ask(check: Check): Promise<boolean> {
    const { user, room, endpoint } = this.#subject;
    const options = { timeoutMs: PROBE_TIMEOUT_MS };
    switch (check) {
      case "isAuthorized":
        return this.#store.isAuthorized(user, options);
      case "isAdmin":
        return this.#store.isAdmin(user, options);
      case "isMember":
        return this.#store.isMember(room, endpoint, options);
      case "hasAdmin":
        return this.#store.hasAdmin(options);
    }
  }
}
