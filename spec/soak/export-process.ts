// A process of its own that imports many records, or exports them: what it takes of memory is nobody else's.

import { createHash } from "node:crypto";
import { pathToFileURL } from "node:url";
import { connect } from "nats";
import { exportStore, importStore, openJetStream, openSqlite, type Store } from "unibus-membership";
import { digestOf } from "../support/exports.js";

export interface Task {
  readonly work: "import" | "export";
  /** A file, or where a server listens. */
  readonly at: { readonly sqlite: string } | { readonly jetstream: string };
  readonly records: number;
}

/** Bytes are of the whole process: before a store is open, when it is open and idle, and at most. */
export interface Taken {
  readonly before: number;
  readonly open: number;
  readonly peak: number;
  readonly seconds: number;
  readonly digest: string;
}

const NOW = "2026-01-02T03:04:05.678Z";
const opTimeoutMs = 60_000;

/** The records that an export of so many would have, half of them users, and rooms of five members with a key each. */
function* recordsOf(count: number): Iterable<object> {
  const users = Math.floor(count / 2);
  for (let i = 0; i < users; i++) {
    const key = createHash("sha256").update(String(i)).digest("hex");
    yield { user: { key, role: i === 0 ? "admin" : "member", status: "active", name: `user ${i}`, createdAt: NOW } };
  }
  for (let i = 0; i < Math.floor((count - users) / 11); i++) {
    const roomId = `room-${i}`;
    const room = { id: roomId, name: "", encrypted: true, owner: "m0", epoch: 1, rekeyRequired: false, createdAt: NOW };
    yield { room };
    for (let j = 0; j < 5; j++) {
      const endpoint = `m${j}`;
      const role = j === 0 ? "owner" : "member";
      yield { member: { roomId, endpoint, role, state: "joined", since: NOW } };
      yield { key: { roomId, endpoint, epoch: 1, sealed: Buffer.alloc(96, j + 1).toString("base64"), createdAt: NOW } };
    }
  }
}

/** The text of an export, by what the documents say of it and not by the library. */
function* textOf(records: Iterable<object>): Iterable<string> {
  const sha256 = createHash("sha256");
  const counts = { users: 0, rooms: 0, members: 0, roomKeys: 0 };
  let sum = 0n;
  const add = (text: string): void => {
    sum = (sum + BigInt(`0x${createHash("sha256").update(text).digest("hex")}`)) % 2n ** 256n;
  };
  const line = (value: object): string => {
    const ended = `${JSON.stringify(value)}\n`;
    sha256.update(ended);
    return ended;
  };
  yield line({ format: "unibus-membership export", version: 1, counts, adminEver: true, revisionFloor: 1 });
  for (const record of records) {
    add(JSON.stringify(record));
    if ("user" in record) counts.users++;
    else if ("room" in record) counts.rooms++;
    else if ("member" in record) counts.members++;
    else counts.roomKeys++;
    yield line(record);
  }
  add('{"adminEver":true}');
  const digest = sum.toString(16).padStart(64, "0");
  yield `${JSON.stringify({ end: { counts, digest, sha256: sha256.digest("hex") } })}\n`;
}

async function digestBy(work: Task["work"], store: Store, records: number): Promise<string> {
  switch (work) {
    case "import":
      return (await importStore(textOf(recordsOf(records)), store)).digest;
    case "export": {
      let last = "";
      for await (const line of exportStore(store)) last = line;
      return digestOf([last]);
    }
  }
}

async function measured(store: Store, { work, records }: Task, before: number): Promise<Taken> {
  globalThis.gc?.();
  const open = process.memoryUsage.rss();
  let peak = open;
  const timer = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss());
  }, 20);
  const began = performance.now();
  try {
    const digest = await digestBy(work, store, records);
    return { before, open, peak, digest, seconds: (performance.now() - began) / 1000 };
  } finally {
    clearInterval(timer);
  }
}

async function perform(task: Task): Promise<Taken> {
  globalThis.gc?.();
  const before = process.memoryUsage.rss();
  if ("sqlite" in task.at) {
    await using store = await openSqlite(task.at.sqlite, { opTimeoutMs });
    return await measured(store, task, before);
  }
  const client = await connect({ servers: task.at.jetstream });
  try {
    await using store = await openJetStream(client, 1, { opTimeoutMs });
    return await measured(store, task, before);
  } finally {
    await client.close();
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  console.log(JSON.stringify(await perform(JSON.parse(process.argv[2] ?? "") as Task)));
}
