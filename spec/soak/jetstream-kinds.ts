// The kinds of messages that can stand in the buckets, and how large each is at most: the table of docs/protocol.md,
// "What stays".

import type { BUCKETS } from "../jetstream/support/streams.js";

export type BucketName = (typeof BUCKETS)[number];

export interface Stored {
  readonly bucket: BucketName;
  readonly key: string;
  readonly value: Readonly<Record<string, unknown>>;
  /** On the disk of one server. */
  readonly bytes: number;
}

export interface Kind {
  readonly name: string;
  /** Bytes of one: with ids of 36 characters and users' keys of 64, and with the longest that there can be. */
  readonly most: { readonly usual: number; readonly longest: number };
  readonly is: (message: Stored) => boolean;
}

/** A token that no id makes. */
const RESERVED = "=";
/** Characters of a barrier's list that goes back as far as most do. */
const SHORT_LIST = 342;

const first = ({ key }: Stored): string | undefined => key.split(".")[0];
const isGone = ({ value }: Stored): boolean => value["gone"] === true;
const listOf = ({ value }: Stored): string => (typeof value["b"] === "string" ? value["b"] : "");

const isOf =
  (bucket: BucketName, begins?: string) =>
  (message: Stored): boolean =>
    message.bucket === bucket && (begins === undefined || first(message) === begins);
const isNamed =
  (key: string) =>
  (message: Stored): boolean =>
    message.key === key;
const isBarrier = (message: Stored): boolean => ["proof", "barrier"].includes(first(message) ?? "");
/** The entries of the index of rooms begin so: behind that they have ids. */
const isMark = ({ key }: Stored): boolean => key.split(".").slice(1).includes(RESERVED);

const kind = (name: string, usual: number, longest: number, is: Kind["is"]): Kind => ({
  name,
  most: { usual, longest },
  is,
});

/** The first that fits counts. */
export const KINDS: readonly Kind[] = [
  kind("barrier", 800, 1700, (each) => isBarrier(each) && listOf(each).length <= SHORT_LIST),
  kind("barrier with a long list", 11_500, 12_500, isBarrier),
  kind("mark of a long list", 500, 1700, isMark),
  kind("lane of an import", 100, 100, (each) => first(each) === "import"),
  kind("state of the store", 250, 250, isNamed("store")),
  kind("progress of the index of rooms", 200, 200, isNamed("index")),
  kind("replicas", 300, 300, isNamed("replicas")),
  kind("guard of the admins", 2000, 4500, isNamed("admins")),
  kind("user", 900, 2200, isOf("users", "user")),
  kind("tombstone of a room", 600, 1200, (each) => isOf("rooms", "room")(each) && isGone(each)),
  kind("room", 10_000, 14_000, isOf("rooms", "room")),
  kind("row of who left", 600, 1800, (each) => isOf("members")(each) && isGone(each)),
  kind("row of a member", 700, 3500, isOf("members")),
  kind("entry of a room", 350, 950, isOf("rooms_by_member", RESERVED)),
  kind("entry of a membership", 450, 1650, isOf("rooms_by_member")),
  kind("epoch", 350, 950, isOf("room_keys", "epoch")),
  kind("key", 700, 1900, isOf("room_keys", "key")),
];
