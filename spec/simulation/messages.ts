/** Messages and errors in the shape that the library knows them by. */
import { Buffer } from "node:buffer";

export type HeaderLines = readonly (readonly [name: string, value: string])[];

const NONE: HeaderLines = [];

export class SimulatedHeaders {
  readonly code: number;
  readonly description: string;
  /**
   * There are so few of them that looking through them is quicker than a map. Those of a message are the same in each
   * answer.
   */
  #lines: HeaderLines;
  #more: HeaderLines;

  constructor(code = 0, description = "", lines: HeaderLines = NONE, more: HeaderLines = NONE) {
    this.code = code;
    this.description = description;
    this.#lines = lines;
    this.#more = more;
  }

  get(name: string): string {
    for (const line of this.#more) if (line[0] === name) return line[1];
    for (const line of this.#lines) if (line[0] === name) return line[1];
    return "";
  }

  set(name: string, value: string): this {
    this.#lines = [...this.entries().filter(([known]) => known !== name), [name, value]];
    this.#more = NONE;
    return this;
  }

  entries(): HeaderLines {
    return this.#more.length === 0 ? this.#lines : [...this.#lines, ...this.#more];
  }
}

export interface SimulatedMessage {
  readonly data: Uint8Array;
  readonly headers?: SimulatedHeaders;
}

const NOTHING = new Uint8Array();

/** What closes an answer, or refuses. */
export function status(code: number, description: string, lines: HeaderLines = NONE): SimulatedMessage {
  return { data: NOTHING, headers: new SimulatedHeaders(code, description, lines) };
}

export function json(value: unknown): SimulatedMessage {
  return { data: Buffer.from(JSON.stringify(value)) };
}

const MAX_REMEMBERED = 1000;

/** Answers that go by stream and sequence alone: those of one simulation are those of the next. */
export function remembered(
  make: (stream: string, seq: number) => SimulatedMessage,
): (stream: string, seq: number) => SimulatedMessage {
  const byStream = new Map<string, (SimulatedMessage | undefined)[]>();
  return (stream, seq) => {
    let known = byStream.get(stream);
    if (known === undefined) byStream.set(stream, (known = []));
    const message = known[seq] ?? make(stream, seq);
    if (seq < MAX_REMEMBERED) known[seq] = message;
    return message;
  };
}

export const acknowledgement = remembered((stream, seq) => json({ stream, seq }));

export type ClientErrorCode = "TIMEOUT" | "503" | "CONNECTION_CLOSED";

/** An error in the shape of the 2.x client's. */
class ClientError extends Error {
  override readonly name = "NatsError";
  readonly code: ClientErrorCode;

  constructor(code: ClientErrorCode) {
    super(code);
    this.code = code;
  }
}

export const clientError = (code: ClientErrorCode): Error => new ClientError(code);
