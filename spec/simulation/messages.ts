/** Messages and errors in the shape that the library knows them by. */
import { Buffer } from "node:buffer";

export class SimulatedHeaders {
  readonly code: number;
  readonly description: string;
  readonly #values = new Map<string, string>();

  constructor(code = 0, description = "") {
    this.code = code;
    this.description = description;
  }

  get(name: string): string {
    return this.#values.get(name) ?? "";
  }

  set(name: string, value: string): this {
    this.#values.set(name, value);
    return this;
  }

  entries(): IterableIterator<[string, string]> {
    return this.#values.entries();
  }
}

export interface SimulatedMessage {
  readonly data: Uint8Array;
  readonly headers?: SimulatedHeaders;
}

const NOTHING = new Uint8Array();

/** What closes an answer, or refuses. */
export function status(code: number, description: string, values: Readonly<Record<string, number | string>> = {}): SimulatedMessage {
  const headers = new SimulatedHeaders(code, description);
  for (const [name, value] of Object.entries(values)) headers.set(name, String(value));
  return { data: NOTHING, headers };
}

export function json(value: unknown): SimulatedMessage {
  return { data: Buffer.from(JSON.stringify(value)) };
}

export type ClientErrorCode = "TIMEOUT" | "503" | "CONNECTION_CLOSED";

/** An error in the shape of the 2.x client's. */
export function clientError(code: ClientErrorCode): Error {
  return Object.assign(new Error(code), { name: "NatsError", code });
}
