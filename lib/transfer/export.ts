/** Everything that a store holds, as lines of text. */
import { createHash } from "node:crypto";
import type { RecordReader } from "../driver.js";
import type { Store } from "../store.js";
import { ContentDigest } from "./digest.js";
import { headerLine, recordLine, trailerLine } from "./lines.js";
import { BulkWork, totalOf } from "./options.js";
import type { BulkOptions } from "./options.js";

/**
 * Everything that the store holds, as lines of JSON: a header, one record a line, and a trailer with a digest. Each
 * line comes with its end, so that they can be written to a file as they are. The store goes on meanwhile.
 *
 * A store in SQLite, and one in memory, is read as of the moment in which it is begun. Of one in JetStream each user,
 * and each room with its members and keys, is as of one version; nobody is in it whose grant was taken away, and that
 * acknowledged, before it was begun. Memory is bounded, however much there is and however slowly the lines are taken:
 * what has to wait goes to a file in the folder for temporary files, which nobody else may read.
 *
 * It holds everything that the store does, sealed keys too, and whoever has it can put back who was revoked since: keep
 * it as you keep the store.
 *
 * @example
 * await pipeline(Readable.from(exportStore(store)), createGzip(), createWriteStream("membership.jsonl.gz"));
 */
export async function* exportStore(store: Store, options?: BulkOptions): AsyncGenerator<string, void, undefined> {
  const work = new BulkWork(store, "store", options);
  const { records } = work.store;
  const reader = await work.step((call) => work.store.begin(records.read(call), call));
  try {
    yield* linesOf(reader, work);
  } finally {
    await work.store.close(reader);
  }
}

async function* linesOf(reader: RecordReader, work: BulkWork): AsyncGenerator<string, void, undefined> {
  const { expected, adminEver, revisionFloor } = reader;
  const sha256 = createHash("sha256");
  const digest = new ContentDigest();
  const line = (text: string): string => {
    const ended = `${text}\n`;
    sha256.update(ended, "utf8");
    return ended;
  };
  work.progress.begin("export", totalOf(expected));
  yield line(headerLine({ counts: expected, adminEver, revisionFloor }));
  let isEverAdmin = adminEver;
  for (;;) {
    const page = await work.step((call) => reader.next(call));
    if (page === undefined) break;
    for (const record of page) {
      digest.add(record);
      // The header does not count who became an admin meanwhile.
      isEverAdmin ||= record.kind === "user" && record.row.role === "admin";
      yield line(recordLine(record));
    }
    work.progress.advance(page.length);
  }
  work.progress.end(digest.total);
  yield `${trailerLine({ counts: digest.counts, digest: digest.hex(isEverAdmin), sha256: sha256.digest("hex") })}\n`;
}
