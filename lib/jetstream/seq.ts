/**
 * Sequences, which the types keep apart by the bucket in whose log they are. They are numbers: none of this is there at
 * run time.
 */

/** The five buckets, each the log of one stream. */
export type BucketName = "rooms" | "members" | "rooms_by_member" | "room_keys" | "users";

declare const seqOf: unique symbol;
declare const streamOf: unique symbol;

/**
 * A sequence of a bucket's log. Another bucket's says nothing of it, and does not compile in its place. 0 is before
 * every log: where a record is expected at 0, it is not there. `Seq<never>` is one of whatever bucket.
 */
export type Seq<B extends BucketName> = 0 | (number & { readonly [seqOf]: (bucket: B) => void });

/** The name of a bucket's stream: what is said to it, or heard from it, is of its log. */
export type Stream<B extends BucketName> = string & { readonly [streamOf]: (bucket: B) => void };

/** The stream of a bucket whose name begins with a prefix of the store's. */
export const streamNamed = <B extends BucketName>(prefix: string, bucket: B): Stream<B> =>
  `KV_${prefix}${bucket}` as Stream<B>;

/** A number that a stream gave, or that a record of it or a caller remembers. */
export const seqIn = <B extends BucketName>(_of: B | Stream<B>, seq: number): Seq<B> => seq as Seq<B>;

/** The earlier of two sequences of one log. */
export const earlier = <B extends BucketName>(a: Seq<B>, b: Seq<B>): Seq<B> => (a < b ? a : b);

/** The later of two sequences of one log. */
export const later = <B extends BucketName>(a: Seq<B>, b: Seq<B>): Seq<B> => (a > b ? a : b);

/** The latest, and `first` where there is no other. */
export function latest<B extends BucketName>(first: Seq<B>, others: Iterable<Seq<B>>): Seq<B> {
  let found = first;
  for (const seq of others) found = later(found, seq);
  return found;
}
