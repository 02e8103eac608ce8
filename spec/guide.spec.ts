/** What docs/guide.md and docs/testing.md show, which stands here so that it is compiled and run. */
import assert from "node:assert/strict";
import { expect } from "chai";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  isAlreadyExists,
  isConflict,
  isLocked,
  isMember,
  isNotFound,
  migrate,
  openStore,
  storeConfigFromEnv,
  type Store,
  type StoreConfig,
} from "unibus-membership";
import { ConformanceRun, conformanceCases, faulty, openMemory, startNatsServer } from "unibus-membership/testing";
import { newDevice, newRoomKey, newSignKey, seal, unseal, type Device } from "../example/crypto.js";
import { foreign } from "./support/foreign-store.js";

const publicKeyOf = (device: Device): Uint8Array => Buffer.from(device.publicKey, "base64url");

/** Answers whether it is this call that made the admin. */
async function enrolFirstAdmin(store: Store, key: string): Promise<boolean> {
  try {
    await store.users.addFirstAdmin({ key, name: "operator" });
    return true;
  } catch (error) {
    if (isConflict(error)) return false; // there is, or was, an admin: nobody comes in by this way again
    throw error;
  }
}

interface Endpoint {
  readonly endpoint: string;
  readonly publicKey: Uint8Array;
}

/** Binds a sealed key to its place: nobody can pass it off as another one's. */
const placeOf = (roomId: string, epoch: number, endpoint: string): string => `${roomId} ${String(epoch)} ${endpoint}`;

/** The room, its owner's membership and the owner's key, together. Its first epoch is 1. */
async function makeRoom(store: Store, id: string, { endpoint, publicKey }: Endpoint, key: Uint8Array): Promise<void> {
  const sealedKey = seal(key, publicKey, placeOf(id, 1, endpoint));
  await store.rooms.create({ id, encrypted: true, owner: endpoint, ownerPublicKey: publicKey, sealedKey });
}

/** What a member's device does to read the room. */
async function openKey(store: Store, roomId: string, device: Device, atEpoch?: number): Promise<Uint8Array> {
  const { epoch, sealed } = await store.roomKeys.get(roomId, device.name, atEpoch);
  return unseal(sealed, device, placeOf(roomId, epoch, device.name));
}

/** `roomKeyOf` gives the room's key of an epoch, as the device of the inviting member has it. */
async function invite(
  store: Store,
  roomId: string,
  guest: Endpoint,
  roomKeyOf: (epoch: number) => Promise<Uint8Array>,
): Promise<void> {
  for (;;) {
    const { epoch } = await store.rooms.get(roomId);
    const sealed = seal(await roomKeyOf(epoch), guest.publicKey, placeOf(roomId, epoch, guest.endpoint));
    try {
      await store.members.add(roomId, { ...guest, sealedKey: { epoch, sealed } });
      return;
    } catch (error) {
      if (isAlreadyExists(error)) return;
      if (!isConflict(error)) throw error; // a rekey came between: seal the new key
    }
  }
}

/** Ends a membership, and the old key with it. */
async function expel(store: Store, roomId: string, endpoint: string): Promise<void> {
  try {
    await store.members.remove(roomId, endpoint);
  } catch (error) {
    if (!isNotFound(error)) throw error; // an earlier try was done
  }
  await rekey(store, roomId);
}

/** Until the room owes no rekey any more. Whoever finds `rekeyRequired` can do it, at any time. */
async function rekey(store: Store, roomId: string): Promise<void> {
  for (;;) {
    const { epoch, rekeyRequired } = await store.rooms.get(roomId);
    if (!rekeyRequired) return;
    const roomKey = newRoomKey();
    const sealed = new Map<string, Uint8Array>();
    for (const { endpoint, publicKey } of await store.members.list(roomId)) {
      if (publicKey === undefined) throw new Error(`${endpoint} has no public key`);
      sealed.set(endpoint, seal(roomKey, publicKey, placeOf(roomId, epoch + 1, endpoint)));
    }
    try {
      await store.roomKeys.rekey(roomId, sealed, { expectedEpoch: epoch });
      return;
    } catch (error) {
      if (!isConflict(error)) throw error; // somebody came, left, or was faster: look again
    }
  }
}

/** A response that lasts, as one of server-sent events does. */
async function stream(store: Store, key: string, response: ServerResponse): Promise<void> {
  const session = await store.session(key, { maxStalenessMs: 1000 });
  if (!session.allowed) {
    response.writeHead(session.reason === "timeout" || session.reason === "unavailable" ? 503 : 403).end();
    return;
  }
  response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
  response.once("close", () => {
    session.close();
  });
  session.signal.addEventListener("abort", () => response.end());
}

/** What it prints is worth keeping: any store that holds the same has the digest. */
async function moveToCluster({ sqlite, jetstream }: StoreConfig): Promise<string> {
  if (sqlite === undefined || jetstream === undefined) throw new Error("both sections are needed");
  await using from = await openStore({ decentralized: false, sqlite });
  await using to = await openStore({ decentralized: true, jetstream });
  const { digest, counts } = await migrate(from, to, { cutOver: true });
  return `${String(counts.users)} users, ${String(counts.rooms)} rooms, ${digest}`;
}

/** A service in a container: it opens, listens, and closes what it has when it is told to stop. */
async function serve(env: NodeJS.ProcessEnv, port: number, stopped: AbortSignal): Promise<AddressInfo> {
  const store = await openStore(storeConfigFromEnv(env));
  const server = createServer((request, response) => void answer(store, request, response));
  stopped.addEventListener("abort", () => {
    server.close(() => void store.close());
  });
  server.listen(port);
  await once(server, "listening");
  return server.address() as AddressInfo;
}

async function answer(store: Store, { url }: IncomingMessage, response: ServerResponse): Promise<void> {
  // Ready: the store proves something. Whether the process is alive is another question, and needs no store.
  const isReady = url === "/live" || (url === "/ready" && (await store.hasAdmin()));
  response.writeHead(isReady ? 200 : 503).end();
}

describe("the guide", function () {
  this.timeout(60_000);
  let store: Store;
  beforeEach(async () => {
    store = await openMemory({ opTimeoutMs: 60_000 });
  });
  afterEach(() => store.close());

  it("has a first admin, once", async () => {
    const [alice, mallory] = [newSignKey(), newSignKey()];
    expect(await enrolFirstAdmin(store, alice)).to.equal(true);
    expect([await enrolFirstAdmin(store, mallory), await enrolFirstAdmin(store, alice)]).to.deep.equal([false, false]);
    expect([await store.isAdmin(alice), await store.isAuthorized(mallory)]).to.deep.equal([true, false]);
  });

  it("invites with a sealed key, also past a rekey, and expels", async () => {
    const [alice, bob, carol] = [newDevice("alice"), newDevice("bob"), newDevice("carol")];
    const first = newRoomKey();
    const endpointOf = (device: Device): Endpoint => ({ endpoint: device.name, publicKey: publicKeyOf(device) });
    const id = "lobby";
    await makeRoom(store, id, endpointOf(alice), first);
    const keyOf = (device: Device, epoch?: number): Promise<Uint8Array> => openKey(store, id, device, epoch);
    await invite(store, id, endpointOf(bob), (epoch) => keyOf(alice, epoch));
    await store.members.join(id, "bob");
    expect(await keyOf(bob)).to.deep.equal(first);

    // Bob goes while Carol's invitation is under way.
    let raced = false;
    await invite(store, id, endpointOf(carol), async (epoch) => {
      const roomKey = await keyOf(alice, epoch);
      if (!raced) await expel(store, id, "bob");
      raced = true;
      return roomKey;
    });
    expect(await keyOf(carol, 2)).to.deep.equal(await keyOf(alice, 2));
    expect(await keyOf(carol, 2)).not.to.deep.equal(first);
    expect([await isMember(store, id, "bob"), (await store.rooms.get(id)).rekeyRequired]).to.deep.equal([false, false]);
    await expel(store, id, "bob");
    expect((await store.rooms.get(id)).epoch).to.equal(2);
  });

  it("ends a response that lasts when its user is revoked, and opens none without a proof", async () => {
    await store.users.addFirstAdmin({ key: "root" });
    await store.users.add({ key: "bob" });
    const fails = faulty(store, []);
    const server = createServer((_, response) => void stream(fails, "bob", response)).listen(0);
    await once(server, "listening");
    const address = `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`;
    const open = await fetch(address);
    expect(open.status).to.equal(200);
    await store.users.revoke("bob");
    expect(await open.text()).to.equal("");
    expect((await fetch(address)).status).to.equal(403);
    fails.setPlan({ on: "session", fault: "fail" });
    expect((await fetch(address)).status).to.equal(503);
    server.close();
    server.closeAllConnections();
  });

  it("moves a file to a cluster, and serves out of a container", async () => {
    const folder = await mkdtemp(join(tmpdir(), "unibus-guide-"));
    await using server = await startNatsServer();
    const env = {
      UNIBUS_MEMBERSHIP_SQLITE_PATH: join(folder, "membership.db"),
      UNIBUS_MEMBERSHIP_NATS_SERVERS: server.url,
    };
    const stop = new AbortController();
    const { port } = await serve(env, 0, stop.signal);
    const statusOf = async (path: string): Promise<number> =>
      (await fetch(`http://127.0.0.1:${String(port)}/${path}`, { headers: { connection: "close" } })).status;
    expect([await statusOf("live"), await statusOf("ready")]).to.deep.equal([200, 503]);
    stop.abort();

    const config = storeConfigFromEnv(env);
    const reopened = async (): Promise<Store> => {
      for (;;) {
        try {
          return await openStore(config);
        } catch (error) {
          if (!isLocked(error)) throw error; // the service is closing it
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      }
    };
    const file = await reopened();
    await file.users.addFirstAdmin({ key: "root" });
    await file.close();
    expect(await moveToCluster(config)).to.match(/^1 users, 0 rooms, /);
    const cluster = await openStore({ ...config, decentralized: true });
    expect(await cluster.isAdmin("root")).to.equal(true);
    await cluster.close();
    await rm(folder, { recursive: true });
  });
});

describe("the guide to tests", function () {
  this.timeout(60_000);

  it("stops the server of an app's store", async () => {
    await using server = await startNatsServer();
    const connect = { servers: [server.url] };
    await using store = await openStore({ decentralized: true, jetstream: { connect, opTimeoutMs: 60_000 } });
    await store.users.addFirstAdmin({ key: "root" });

    await server.pause(); // it is there, and says nothing
    assert.equal(await store.isAuthorized("root", { timeoutMs: 500 }), false);
    await server.resume();
    assert.equal(await store.isAuthorized("root"), true);
  });

  it("tries a wrapper by the conformance suite", async () => {
    const cached = foreign;
    const run = new ConformanceRun({
      fresh: async () => ({ store: cached(await openMemory({ opTimeoutMs: 20_000 })) }),
    });
    for (const each of conformanceCases.filter(({ group }) => group === "users")) await run.case(each);
    await run.dispose();
  });
});
