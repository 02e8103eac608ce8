/**
 * A store of format 1 that was open before, and knows of no state: it sends what proves a check, and writes the name of
 * a user that nobody else touches. What it gets acknowledged before the settings come goes over; once the source has
 * ended it gets nothing proved (docs/protocol.md, Q7).
 */
import { Buffer } from "node:buffer";
import type { NatsConnection } from "unibus-membership";
import type { Chance } from "./chance.js";
import { SimulatedHeaders } from "./messages.js";
import type { SimulatedProcess } from "./process.js";

export const OLD_USER = "older";
const RECORD = `$KV.users.user.${Buffer.from(OLD_USER).toString("base64url")}`;
const EXPECTED = "Nats-Expected-Last-Subject-Sequence";
const TIMEOUT_MS = 300;
const MOST_MESSAGES = 300;

/** A barrier that was acknowledged. */
export interface Proof {
  readonly invoked: number;
}

export class SimulatedOldStore {
  readonly #process: SimulatedProcess;
  readonly #connection: NatsConnection;
  readonly #chance: Chance;
  readonly #tick: () => number;
  readonly proofs: Proof[] = [];
  /** The last of the names that were acknowledged. */
  written = 0;
  #sent = 0;
  #name = 0;

  constructor(process: SimulatedProcess, connection: NatsConnection, chance: Chance, tick: () => number) {
    this.#process = process;
    this.#connection = connection;
    this.#chance = chance;
    this.#tick = tick;
  }

  begin(): void {
    this.#later();
  }

  #later(): void {
    if (this.#sent++ >= MOST_MESSAGES) return;
    this.#process.after(this.#chance.between(0, 20), () => {
      const next = (): void => {
        this.#later();
      };
      (this.#chance.happens(0.5) ? this.#prove() : this.#write()).then(next, next);
    });
  }

  async #prove(): Promise<void> {
    const barrier = this.#chance.of(["barrier", "barrier.7-0"]);
    const invoked = this.#tick();
    await this.#publish(`$KV.users.${barrier}`, { k: barrier });
    this.proofs.push({ invoked });
  }

  async #write(): Promise<void> {
    const { data, headers } = await this.#connection.request(
      "$JS.API.DIRECT.GET.KV_users",
      JSON.stringify({ last_by_subj: RECORD }),
      { timeout: TIMEOUT_MS },
    );
    if (data.length === 0) return;
    const value = JSON.parse(Buffer.from(data).toString()) as { readonly user: { readonly v: number } };
    const { user } = value;
    const name = ++this.#name;
    await this.#publish(
      RECORD,
      { ...value, user: { ...user, v: user.v + 1, name: String(name) } },
      headers?.get("Nats-Sequence"),
    );
    this.written = Math.max(this.written, name);
  }

  async #publish(subject: string, value: object, expected?: string): Promise<void> {
    const headers = expected === undefined ? {} : { headers: new SimulatedHeaders(0, "", [[EXPECTED, expected]]) };
    const { data } = await this.#connection.request(subject, JSON.stringify(value), {
      timeout: TIMEOUT_MS,
      ...headers,
    });
    const { error } = JSON.parse(Buffer.from(data).toString()) as { readonly error?: unknown };
    if (error !== undefined) throw new Error("refused");
  }
}
