/** Whether everything that a store holds is as it should be. */
import * as args from "../arguments.js";
import type { Inspector, RecordReader, StoredRecord } from "../driver.js";
import { toFinding, type Finding, type Found } from "../findings.js";
import { isError } from "../errors.js";
import type { Store } from "../store.js";
import { ContentDigest } from "../transfer/digest.js";
import { BulkWork, totalOf } from "../transfer/options.js";
import type { BulkOptions, Counts } from "../transfer/options.js";
import { RecordRules, type Judged } from "./record-rules.js";

/** What was found, and what there is. */
export interface Inspection {
  /** No error and no warning, or each was repaired. */
  ok: boolean;
  counts: Counts;
  /** Of the content: that of every store that holds the same. What is too damaged to be read is in neither. */
  digest: string;
  findings: readonly Finding[];
}

/** What an inspection takes. */
export interface InspectOptions extends BulkOptions {
  /** Mend what has one right answer. Default `false`. */
  repair?: boolean;
}

/** More are not kept: whoever has so many needs no list of them. */
const MAX_FINDINGS = 10_000;
const OPTIONS = ["signal", "stallTimeoutMs", "onProgress", "repair"] as const;

/**
 * Looks at everything that a store holds, record by record: whether each field is one that a caller can have written,
 * whether the records belong together (owners, roles, epochs), and what only the backend knows. Of a SQLite file these
 * are the checksums of the image and its log; of JetStream the index against the members and the other way, heads,
 * stages, epochs, the guard of the admins, what is left of attempts that died, and the settings and replicas of the
 * buckets. The store goes on meanwhile, and what others do at the same time is no fault. Memory is bounded.
 *
 * With `repair: true` it mends what has one right answer, and says so in the finding. It grants nothing: no check that
 * was `false` is `true` afterwards. Where the right answer cannot be told, the finding says why it was not mended, and
 * what to do.
 *
 * Each finding has a code, which docs/operations.md explains, a severity, and the record: an id, a bucket's key or a
 * file, never a sealed key. There are at most 10,000; `MORE_FINDINGS` says that others were not kept. It rejects as any
 * call does, and with `UNAVAILABLE` while the store is imported into. On JetStream, where a bucket's settings or the
 * record that says whether the store may be used are wrong, nothing else is looked at. A SQLite file with rows that
 * contradict each other is refused at opening already.
 *
 * @example
 * const { ok, findings } = await inspect(store);
 * for (const { severity, code, message, record } of findings) log.warn({ severity, code, message, record });
 */
export async function inspect(store: Store, options?: InspectOptions): Promise<Inspection> {
  const given = args.fields(options ?? {}, "options", OPTIONS);
  const { repair = false, ...bulk } = given;
  if (typeof repair !== "boolean") throw args.invalid("options.repair", "a boolean");
  const work = new BulkWork(store, "store", bulk);
  const inspector = await work.step((call) => work.store.inspection.begin(repair, call));
  const findings = new Findings();
  await lookAtBackend(inspector, findings, work);
  let content = await lookAtRecords(inspector, findings, repair, work);
  // What a role was mended to is part of the content.
  if (content.isMended) content = await lookAtRecords(inspector, undefined, false, work);
  const { counts, digest } = content;
  return { ok: findings.ok, counts, digest, findings: findings.all };
}

class Findings {
  readonly all: Finding[] = [];
  ok = true;

  add(found: Found): void {
    const finding = toFinding(found);
    if (!finding.repaired && finding.severity !== "info") this.ok = false;
    if (this.all.length < MAX_FINDINGS) this.all.push(finding);
    else if (this.all.length === MAX_FINDINGS) {
      const message = "There is more, which is not told: have this mended, and inspect again";
      this.all.push(toFinding({ code: "MORE_FINDINGS", message, repaired: false }));
    }
  }
}

async function lookAtBackend(inspector: Inspector, findings: Findings, work: BulkWork): Promise<void> {
  let phase: string | undefined;
  for (;;) {
    const step = await work.step((call) => inspector.next(call));
    if (step === undefined) break;
    if (step.phase !== phase) {
      if (phase !== undefined) work.progress.end();
      work.progress.begin(step.phase, step.total);
    }
    ({ phase } = step);
    work.progress.advance(step.done);
    for (const found of step.findings) findings.add(found);
  }
  if (phase !== undefined) work.progress.end();
}

interface Content {
  readonly counts: Counts;
  readonly digest: string;
  readonly isMended: boolean;
}

/** Without `findings` only what there is. */
async function lookAtRecords(
  inspector: Inspector,
  findings: Findings | undefined,
  repair: boolean,
  work: BulkWork,
): Promise<Content> {
  const reader = await work.step((call) => work.store.begin(inspector.read(call), call));
  const digest = new ContentDigest();
  const rules = new RecordRules();
  const look = new Look(inspector, findings, repair, work);
  let seen = 0;
  try {
    work.progress.begin("records", totalOf(reader.expected));
    for (;;) {
      const page = await work.step((call) => reader.next(call));
      if (page === undefined) break;
      for (const record of page) {
        await look.at(rules.next(record));
        look.examine(record);
        add(digest, record);
      }
      seen += page.length;
      work.progress.advance(page.length);
    }
    work.progress.end(seen);
    await look.at(rules.end(reader.adminEver));
    if (inspector.isExact) look.compare(reader, seen, rules);
  } finally {
    await work.store.close(reader);
  }
  const adminEver = reader.adminEver || rules.hasAdmins;
  return { counts: { ...digest.counts }, digest: digest.hex(adminEver), isMended: look.isMended };
}

/** What cannot be written down is a finding already. */
function add(digest: ContentDigest, record: StoredRecord): void {
  try {
    digest.add(record);
  } catch (error) {
    if (!isError(error) || error.name !== "RangeError") throw error;
  }
}

class Look {
  readonly #inspector: Inspector;
  readonly #findings: Findings | undefined;
  readonly #repair: boolean;
  readonly #work: BulkWork;
  isMended = false;

  constructor(inspector: Inspector, findings: Findings | undefined, repair: boolean, work: BulkWork) {
    this.#inspector = inspector;
    this.#findings = findings;
    this.#repair = repair;
    this.#work = work;
  }

  async at(judged: readonly Judged[]): Promise<void> {
    for (const { role, ...found } of judged) {
      const isMended = this.#repair && role !== undefined && (await this.#mend(role));
      this.isMended ||= isMended;
      this.#findings?.add({ ...found, repaired: isMended });
    }
  }

  examine(record: StoredRecord): void {
    const found = this.#inspector.examine?.(record);
    if (found !== undefined) this.#findings?.add(found);
  }

  /** What is found by an index, and what was counted when it came. */
  compare({ expected, adminEver }: RecordReader, seen: number, { hasAdmins }: RecordRules): void {
    const total = totalOf(expected);
    if (seen !== total) {
      const message = `There are ${String(total)} records, and a walk over all of them meets ${String(seen)}. Export what is there, and import it into a new store`;
      this.#findings?.add({ code: "RECORD_UNLISTED", message, repaired: false });
    }
    if (!hasAdmins || adminEver) return;
    const message = "There is an admin, and nothing says that there ever was one: do not use the store";
    this.#findings?.add({ code: "ADMIN_GUARD", message, repaired: false });
  }

  #mend({ roomId, endpoint }: NonNullable<Judged["role"]>): Promise<boolean> {
    return this.#work.step((call) => this.#inspector.mendRole(roomId, endpoint, call));
  }
}
