/** The permissions that docs/security.md gives are enough, and no more is. */
import { expect } from "chai";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Events, connect, type NatsConnection as Client } from "nats";
import { endMigration, exportStore, inspect, migrate, openJetStream, type Store } from "unibus-membership";
import { openMemory, startNatsServer, type NatsServer } from "unibus-membership/testing";
import { codeOf } from "../support/code-of.js";

const opTimeoutMs = 5000;
const prefix = "bus_";
const BUCKETS = ["rooms", "members", "rooms_by_member", "room_keys", "users"];
const guide = fileURLToPath(new URL("../../docs/security.md", import.meta.url));

/** What the document allows each role to publish, by the rows of its table, with the prefix and buckets written out. */
async function permissions(before = prefix): Promise<ReadonlyMap<string, readonly string[]>> {
  const text = await readFile(guide, "utf8");
  const found = new Map<string, readonly string[]>();
  for (const [, role = "", listed = ""] of text.matchAll(/^\| `(owner|service|checker)` \| (.*?) \|/gm)) {
    const own = [...listed.matchAll(/`([^`]+)`/g)].flatMap(([, subject = ""]) =>
      subject.includes("<bucket>")
        ? BUCKETS.map((bucket) => subject.replace("<bucket>", before + bucket))
        : [subject.replace("<prefix>", before)],
    );
    // Each row adds to what the one before it has.
    found.set(role, [...([...found.values()].at(-1) ?? []), ...own]);
  }
  return found;
}

/** What it has servers include: the same for buckets without a prefix. */
async function writtenOut(): Promise<readonly User[]> {
  const [, block = ""] = /^```text\n("authorization": [^]*?)^```$/m.exec(await readFile(guide, "utf8")) ?? [];
  return (JSON.parse(`{ ${block} }`) as { authorization: { users: readonly User[] } }).authorization.users;
}

interface User {
  readonly user: string;
  readonly permissions: Readonly<Record<"publish" | "subscribe", { readonly allow: readonly string[] }>>;
}

/** Each subject once, and none that a wider one of them has. */
const narrowed = (subjects: readonly string[]): string[] =>
  [...new Set(subjects)].filter(
    (subject) => !subject.endsWith(".proof.*") || !subjects.includes(subject.replace("proof.*", ">")),
  );

describe("jetstream: permissions", function () {
  this.timeout(60_000);
  let server: NatsServer;
  const clients: Client[] = [];
  const stores: Store[] = [];

  async function as(user: string): Promise<Client> {
    const client = await connect({ servers: server.url, user, pass: "x" });
    clients.push(client);
    return client;
  }

  async function storeOf(user: string): Promise<Store> {
    const store = await openJetStream(await as(user), undefined, { prefix, opTimeoutMs });
    stores.push(store);
    return store;
  }

  before(async () => {
    const users = [...(await permissions())].map(([user, allowed]) => ({
      user,
      password: "x",
      permissions: { publish: { allow: [...allowed] }, subscribe: { allow: ["_INBOX.>"] } },
    }));
    expect(users.map(({ user }) => user)).to.deep.equal(["checker", "service", "owner"]);
    const stranger = { user: "stranger", password: "x", permissions: { publish: { deny: ["$KV.>", "$JS.>"] } } };
    server = await startNatsServer({ config: { authorization: { users: [...users, stranger] } } });
  });

  after(async () => {
    await Promise.all(stores.map((store) => store.close()));
    await Promise.all(clients.map((client) => client.close()));
    await server.dispose();
  });

  it("are the same in the file that servers include as in the table", async () => {
    const table = [...(await permissions(""))].map(([user, allowed]) => [user, narrowed(allowed)]);
    const users = await writtenOut();
    expect(users.map(({ user, permissions: { publish } }) => [user, publish.allow])).to.deep.equal(table);
    for (const { user, permissions: own } of users) expect(own.subscribe.allow).to.deep.equal([`_INBOX_${user}.>`]);
  });

  it("who may not make the buckets does not open before they are there", async () => {
    for (const user of ["service", "checker", "stranger"]) {
      const client = await as(user);
      const opened = openJetStream(client, undefined, { prefix, opTimeoutMs: 100 });
      expect(await opened.then(() => "opened", codeOf), user).to.be.oneOf(["UNAVAILABLE", "TIMEOUT"]);
    }
  });

  it("the owner makes the buckets", async () => {
    const store = await storeOf("owner");
    await store.users.addFirstAdmin({ key: "root" });
    expect(await store.isAdmin("root")).to.equal(true);
  });

  it("a service does everything but make and change buckets", async () => {
    const store = await storeOf("service");
    await store.users.add({ key: "bob" });
    await store.users.update("bob", { role: "admin" });
    await store.users.revoke("bob");
    await store.users.reinstate("bob");
    expect((await store.users.list()).items.map(({ key }) => key)).to.have.members(["root", "bob"]);
    const sealed = new Uint8Array(40).fill(1);
    const room = await store.rooms.create({ encrypted: true, owner: "alice", sealedKey: sealed });
    await store.members.add(room.id, { endpoint: "bob", sealedKey: { epoch: 1, sealed } });
    await store.members.add(room.id, { endpoint: "eve" });
    await store.roomKeys.put(room.id, "eve", 1, sealed);
    await store.members.join(room.id, "bob");
    await store.members.remove(room.id, "eve");
    const owners = new Map(["alice", "bob"].map((endpoint) => [endpoint, sealed] as const));
    await store.roomKeys.rekey(room.id, owners, { expectedEpoch: 1 });
    await store.rooms.update(room.id, { owner: "bob" });
    expect((await store.members.list(room.id)).map(({ endpoint }) => endpoint)).to.deep.equal(["alice", "bob"]);
    expect((await store.rooms.listForEndpoint("bob")).map(({ id }) => id)).to.deep.equal([room.id]);
    expect((await store.rooms.list()).items).to.have.length(1);
    expect(await store.roomKeys.list(room.id, "bob")).to.have.length(2);
    expect(await store.isMember(room.id, "bob")).to.equal(true);
    await store.rooms.delete(room.id);
    expect((await store.rooms.list()).items).to.deep.equal([]);
  });

  it("a service watches, holds sessions, exports, inspects and mends, and moves its store away", async () => {
    const store = await storeOf("service");
    await store.users.add({ key: "dora" });
    const session = await store.session("dora", { maxStalenessMs: 60_000 });
    expect(session.allowed).to.equal(true);
    const types: string[] = [];
    for await (const { type } of store.watch({ kinds: ["users", "rooms"] })) {
      types.push(type);
      if (type === "proved") break;
    }
    expect(types).to.include("user");
    let lines = 0;
    for await (const line of exportStore(store)) lines += Number(line.length > 0);
    expect(lines).to.be.greaterThan(2);
    expect(await inspect(store, { repair: true })).to.include({ ok: true });
    const target = await openMemory();
    expect((await migrate(store, target)).counts.users).to.be.greaterThan(1);
    await endMigration(store, { keep: "source", other: target });
    // To end it takes the permission to update the streams: without it the store goes on.
    expect(await migrate(store, target, { cutOver: true }).then(() => "moved", codeOf)).to.equal("UNAVAILABLE");
    expect(await store.isAuthorized("dora")).to.equal(true);
    await store.users.update("dora", { name: "goes on" });
    expect(await target.isAuthorized("dora")).to.equal(false);
    await target.close();
  });

  it("nobody but the owner makes, changes or removes a bucket", async () => {
    const stream = `KV_${prefix}users`;
    const requests: Readonly<Record<string, unknown>> = {
      [`STREAM.CREATE.KV_${prefix}other`]: { name: `KV_${prefix}other` },
      [`STREAM.UPDATE.${stream}`]: { name: stream, subjects: [`$KV.${prefix}users.>`], max_msgs: 1 },
      [`STREAM.DELETE.${stream}`]: {},
      [`STREAM.MSG.DELETE.${stream}`]: { seq: 1 },
      [`STREAM.RESTORE.${stream}`]: {},
      [`STREAM.SNAPSHOT.${stream}`]: { deliver_subject: "_INBOX.x" },
      [`CONSUMER.CREATE.${stream}`]: { stream_name: stream, config: { deliver_subject: "_INBOX.x" } },
    };
    for (const user of ["service", "checker"]) {
      const client = await as(user);
      for (const [subject, body] of Object.entries(requests)) {
        const asked = client.request(`$JS.API.${subject}`, JSON.stringify(body), { timeout: 60_000 });
        expect(await asked.then(() => "answered", String), `${user} ${subject}`).to.match(
          /PERMISSIONS_VIOLATION|Permissions/i,
        );
      }
    }
    // Nor does the owner remove one.
    const owner = await as("owner");
    const asked = owner.request(`$JS.API.STREAM.DELETE.${stream}`, "", { timeout: 60_000 });
    expect(await asked.then(() => "answered", String)).to.match(/PERMISSIONS_VIOLATION|Permissions/i);
  });

  it("a checker proves who may come in, and can change nothing", async () => {
    const writer = await storeOf("service");
    const checker = await storeOf("checker");
    const room = await writer.rooms.create({ id: "lobby", owner: "alice" });
    await writer.users.add({ key: "carol" });
    expect(await checker.isAuthorized("carol")).to.equal(true);
    expect(await checker.isAdmin("root")).to.equal(true);
    expect(await checker.hasAdmin()).to.equal(true);
    expect(await checker.isMember(room.id, "alice")).to.equal(true);
    expect((await checker.authorize("nobody")).reason).to.equal("unknown");
    expect((await checker.users.get("carol")).key).to.equal("carol");
    expect((await checker.members.get(room.id, "alice")).role).to.equal("owner");
    const writes: readonly (readonly [string, () => Promise<unknown>])[] = [
      ["users.add", () => checker.users.add({ key: "mallory", role: "admin" })],
      ["users.update", () => checker.users.update("carol", { role: "admin" })],
      ["users.revoke", () => checker.users.revoke("carol")],
      ["rooms.create", () => checker.rooms.create({ owner: "mallory" })],
      ["members.add", () => checker.members.add(room.id, { endpoint: "mallory", state: "joined" })],
      ["rooms.delete", () => checker.rooms.delete(room.id)],
    ];
    for (const [name, write] of writes) expect(await write().then(() => "done", codeOf), name).to.equal("UNAVAILABLE");
    const session = await checker.session("carol", { maxStalenessMs: 5000 });
    if (!session.allowed) throw new Error(session.reason);
    const ended = once(session.signal, "abort");
    await writer.users.revoke("carol");
    await ended;
    expect(await checker.authorize("carol")).to.include({ allowed: false, reason: "revoked" });
    expect(await writer.isMember(room.id, "mallory")).to.equal(false);
  });

  it("a checker's credential, in other hands, writes no record", async () => {
    const client = await as("checker");
    const denied = (async (): Promise<void> => {
      let refused = 0;
      for await (const { type } of client.status()) if (type === Events.Error && ++refused === 3) break;
    })();
    for (const key of ["store", "admins", "user.x"]) client.publish(`$KV.${prefix}users.${key}`, "{}");
    await client.flush();
    await denied;
    const read = client.request(`$JS.API.DIRECT.GET.KV_${prefix}room_keys`, `{"next_by_subj":">","seq":1}`);
    expect(await read.then(() => "read", codeOf)).not.to.equal("read");
  });
});
