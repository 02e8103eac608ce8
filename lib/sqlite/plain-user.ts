/**
 * The text of the one change that is by far the most frequent, a user, where nothing in it is to be escaped. It is what
 * `JSON.stringify` writes of the same, but written where it goes, without a list, a text and the parts of both.
 */
import type { Buffer } from "node:buffer";
import type { UserRow } from "./rows.js";

const BEGINNING = '[["u",';
/** Of everything that is not a text of the caller's: four numbers, two words, and what is between them. */
const FIXED_BYTES = 128;
/** Of a character that JSON escapes, at most. */
const ESCAPED_BYTES = 6;
/** A part of a number that is one of 32 bits, and has so many digits where it is not the first. */
const PART = 1e7;
const PART_DIGITS = 7;

function isCount(value: number | undefined): boolean {
  return value === undefined || (Number.isSafeInteger(value) && value >= 0);
}

/** Whether {@link writePlainUser} can write its numbers. */
export function hasPlainNumbers(row: UserRow): boolean {
  return isCount(row.ordinal) && isCount(row.createdAt) && isCount(row.revokedAt) && isCount(row.expiresAt);
}

/** What the user's text takes at most, written here or as JSON writes it. */
export function userBound({ key, name }: UserRow): number {
  return FIXED_BYTES + ESCAPED_BYTES * (key.length + name.length);
}

/**
 * Writes at `at`, and answers where it ends. -1: a text has something to escape, and what was written is to be written
 * over.
 */
export function writePlainUser(target: Buffer, at: number, row: UserRow): number {
  let end = writeNumber(target, writeAscii(target, at, BEGINNING), row.ordinal);
  end = writePlain(target, writeAscii(target, end, ',"'), row.key);
  if (end < 0) return end;
  end = writeAscii(target, end, '","');
  end = writeAscii(target, end, row.role);
  end = writeAscii(target, end, '","');
  end = writeAscii(target, end, row.status);
  end = writePlain(target, writeAscii(target, end, '","'), row.name);
  if (end < 0) return end;
  end = writeNumber(target, writeAscii(target, end, '",'), row.createdAt);
  end = writeOptional(target, writeAscii(target, end, ","), row.revokedAt);
  end = writeOptional(target, writeAscii(target, end, ","), row.expiresAt);
  return writeAscii(target, end, "]]");
}

function writeAscii(target: Buffer, at: number, text: string): number {
  for (let i = 0; i < text.length; i++) target[at + i] = text.charCodeAt(i);
  return at + text.length;
}

/** Printable ASCII, without what JSON escapes; otherwise -1. */
function writePlain(target: Buffer, at: number, text: string): number {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x20 || unit > 0x7e || unit === 0x22 || unit === 0x5c) return -1;
    target[at + i] = unit;
  }
  return at + text.length;
}

function writeOptional(target: Buffer, at: number, value: number | undefined): number {
  return value === undefined ? writeAscii(target, at, "null") : writeNumber(target, at, value);
}

function writeNumber(target: Buffer, at: number, value: number): number {
  if (value < PART) return writeDigits(target, at, value, digitsOf(value));
  const first = Math.floor(value / PART);
  return writeDigits(target, writeNumber(target, at, first), value - first * PART, PART_DIGITS);
}

function digitsOf(value: number): number {
  let digits = 1;
  for (let limit = 10; limit <= value; limit *= 10) digits++;
  return digits;
}

/** `value` is below {@link PART}: the divisions are of integers. */
function writeDigits(target: Buffer, at: number, value: number, digits: number): number {
  let rest = value | 0;
  for (let place = at + digits - 1; place >= at; place--) {
    const tenth = (rest / 10) | 0;
    target[place] = 0x30 + rest - tenth * 10;
    rest = tenth;
  }
  return at + digits;
}
