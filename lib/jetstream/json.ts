import { Buffer } from "node:buffer";

/** JSON of JetStream's API. Nothing is believed of it beyond what each reader checks. */
export type Json = Readonly<Record<string, unknown>>;

export function asObject(value: unknown): Json {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

/** What is no JSON is an object without fields. */
export function parseJson(data: Uint8Array): Json {
  try {
    return asObject(JSON.parse(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("utf8")));
  } catch {
    return {};
  }
}
