/** The digest of what a store holds, whatever the order in which it is read. */
import { createHash } from "node:crypto";
import type { RecordCounts, StoredRecord } from "../driver.js";
import { contentOf } from "./lines.js";

const BITS = 256n;
const MASK = (1n << BITS) - 1n;

/**
 * The sum of the SHA-256 of each record, modulo 2^256. Two stores that hold the same have the same digest, though one
 * reads its users by the order of their addition, and another by that of their changes. It tells accidents, not
 * forgeries: who can write the records can write the digest.
 */
export class ContentDigest {
  #sum = 0n;
  readonly #counts = { users: 0, rooms: 0, members: 0, roomKeys: 0 };

  add(record: StoredRecord): void {
    this.#addText(contentOf(record));
    switch (record.kind) {
      case "user":
        this.#counts.users++;
        break;
      case "room":
        this.#counts.rooms++;
        break;
      case "member":
        this.#counts.members++;
        break;
      case "key":
        this.#counts.roomKeys++;
        break;
    }
  }

  get counts(): RecordCounts {
    return { ...this.#counts };
  }

  get total(): number {
    const { users, rooms, members, roomKeys } = this.#counts;
    return users + rooms + members + roomKeys;
  }

  /** `adminEver`: whether any user is, or was, an admin, which no record says. */
  hex(adminEver: boolean): string {
    return totalHex(this.#sum, adminEver);
  }

  #addText(text: string): void {
    this.#sum = sumOf(this.#sum, hashOf(text));
  }
}

/** Of two sums, one of which may be negative. */
export const sumOf = (a: bigint, b: bigint): bigint => (a + b) & MASK;

export function totalHex(sum: bigint, adminEver: boolean): string {
  const total = adminEver ? sumOf(sum, hashOf('{"adminEver":true}')) : sum;
  return total.toString(16).padStart(64, "0");
}

export function hashOf(text: string): bigint {
  return BigInt(`0x${createHash("sha256").update(text, "utf8").digest("hex")}`);
}
