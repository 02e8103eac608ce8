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
  /** The bound that it was given. */
  readonly timeoutMs: number;
}

export interface Subject {
  readonly user: string;
  readonly room: string;
  readonly endpoint: string;
}

export const PROBE_TIMEOUT_MS = 1000;

/** What a slow machine needs to answer, and to wake a store after a heal. It bounds a wait for what has to come. */
export const PATIENCE_MS = 120_000;

/**
 * Between two probes of a kind, so that what they show is not that a machine is busy. What they look for lasts for
 * seconds: more of them are for the soak.
 */
const PAUSE_MS = process.env["UNIBUS_PROBE_SECONDS"] === undefined ? 100 : 40;

/** Asks all four checks of one store, over and over, until it is stopped. */
export class Probes {
  readonly #store: Store;
  readonly #subject: Subject;
  readonly #done: Promise<unknown>;
  #timeoutMs = PROBE_TIMEOUT_MS;
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

  /**
   * Resolves when each check has allowed, begun from now on. Meanwhile probes have much time: a machine that does much
   * else may not prove anything within the bound of a probe that has to be denied.
   */
  async allow(): Promise<void> {
    this.#timeoutMs = PATIENCE_MS;
    try {
      await this.#each("allows", performance.now(), ({ allowed }) => allowed);
    } finally {
      this.#timeoutMs = PROBE_TIMEOUT_MS;
    }
    // None of those with much time is under way any more: the next ones are as short as the denials have to be.
    await this.#each("goes on", performance.now(), () => true);
  }

  /** Resolves when each check has denied, begun at `since` or later. */
  async deny(since: number): Promise<void> {
    await this.#each("denies", since, ({ allowed }) => !allowed);
  }

  async #each(does: string, since: number, isMeant: (probe: Probe) => boolean): Promise<void> {
    const missing = (): Check[] => {
      const answered = new Set(
        this.since(since)
          .filter(isMeant)
          .map(({ check }) => check),
      );
      return CHECKS.filter((check) => !answered.has(check));
    };
    await eventually(`every check ${does}`, () => missing().length === 0, PATIENCE_MS).catch((error: unknown) => {
      throw new Error(`${String(error)}: not ${missing().join(", ")}`);
    });
  }

  async #loop(check: Check): Promise<void> {
    while (!this.#stopped) {
      const began = performance.now();
      const timeoutMs = this.#timeoutMs;
      const allowed = await this.#ask(check, { timeoutMs });
      this.all.push({ check, began, ended: performance.now(), allowed, timeoutMs });
      await pause(PAUSE_MS);
    }
  }

  #ask(check: Check, options: { readonly timeoutMs: number }): Promise<boolean> {
    const { user, room, endpoint } = this.#subject;
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
