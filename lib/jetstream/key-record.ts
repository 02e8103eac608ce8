/** The records of room keys and of epochs: what stands in `room_keys`. */
import type { Entry } from "./entry.js";
import type { Json } from "./json.js";
import { Fields, base64 } from "./record-fields.js";

export interface KeyRow {
  readonly sealed: Uint8Array;
  readonly createdAt: number;
  readonly write: string;
}

export function readKey(entry: Entry<"room_keys">): KeyRow {
  const fields = new Fields(entry.value, entry);
  return {
    sealed: fields.bytes("sealed"),
    createdAt: fields.number("createdAt"),
    write: fields.text("write"),
  };
}

export function writeKey(sealed: Uint8Array, createdAt: number, write: string): Json {
  return { sealed: base64(sealed), createdAt, write };
}

export function readEpoch(entry: Entry<"room_keys">): string {
  return new Fields(entry.value, entry).text("attempt");
}
