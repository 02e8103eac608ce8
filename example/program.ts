/**
 * The program, in two acts: between them its process is killed. It knows a config and the public surface, and no
 * backend. In a third one it moves to another backend while it works.
 *
 * `program.ts <act> <folder>`: the folder has `config.json`, and what the people's devices keep for themselves.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  hasAdmin,
  isAuthorized,
  isConflict,
  isIncompatible,
  isMember,
  isNotFound,
  isStoreError,
  migrate,
  openStore,
  type Store,
  type StoreConfig,
} from "unibus-membership";
import {
  decryptMessage,
  encryptMessage,
  newDevice,
  newRoomKey,
  newSignKey,
  seal,
  unseal,
  type Device,
} from "./crypto.js";

const [act = "", folder = ""] = process.argv.slice(2);
const ROOM = "ops room";

const say = (text: string): void => console.log(text);
const step = (text: string): void => console.log(`\n${text}`);

function keep(name: string, value: unknown): void {
  writeFileSync(join(folder, name), JSON.stringify(value), { mode: 0o600 });
}
function kept(name: string): unknown {
  return JSON.parse(readFileSync(join(folder, name), "utf8"));
}

/** Three people, each with a sign key, by which the allowlist knows them, and a device, which holds a private key. */
interface Person {
  readonly signKey: string;
  readonly device: Device;
}
const names = ["alice", "bob", "carol"] as const;
type People = Readonly<Record<(typeof names)[number], Person>>;

const publicKeyOf = (person: Person): Uint8Array => Buffer.from(person.device.publicKey, "base64url");
const place = (epoch: number, endpoint: string): string => `${ROOM}, epoch ${String(epoch)}, for ${endpoint}`;
const sealFor = (roomKey: Uint8Array, person: Person, epoch: number): Uint8Array =>
  seal(roomKey, publicKeyOf(person), place(epoch, person.device.name));

interface Message {
  readonly epoch: number;
  readonly bytes: string;
}

function send(roomKey: Uint8Array, epoch: number, text: string): Message {
  return { epoch, bytes: Buffer.from(encryptMessage(roomKey, text, `epoch ${String(epoch)}`)).toString("base64url") };
}

/** What a device does: fetch its own sealed key of the message's epoch, open it with its private key, read. */
async function read(store: Store, person: Person, message: Message): Promise<string> {
  const { name } = person.device;
  const { sealed } = await store.roomKeys.get(ROOM, name, message.epoch);
  const roomKey = unseal(sealed, person.device, place(message.epoch, name));
  return decryptMessage(roomKey, Buffer.from(message.bytes, "base64url"), `epoch ${String(message.epoch)}`);
}

async function firstAct(store: Store): Promise<void> {
  const people = Object.fromEntries(
    names.map((name) => [name, { signKey: newSignKey(), device: newDevice(name) }]),
  ) as unknown as People;
  keep("people.json", people);
  const { alice, bob, carol } = people;

  step("Enrolling the first admin.");
  assert.equal(await hasAdmin(store), false);
  await store.users.addFirstAdmin({ key: alice.signKey, name: "Alice" });
  assert.equal(await hasAdmin(store), true);
  assert.equal(await store.isAdmin(alice.signKey.toUpperCase()), true);
  say(`  Alice is an admin: users.addFirstAdmin("${alice.signKey.slice(0, 8)}...")`);
  await assert.rejects(store.users.addFirstAdmin({ key: newSignKey() }), isConflict);
  say("  Nobody becomes the first admin a second time: CONFLICT");

  step("Alice puts Bob and Carol on the allowlist.");
  assert.equal((await store.authorize(bob.signKey)).reason, "unknown");
  say('  Before: Bob is denied, reason "unknown"');
  await store.users.add({ key: bob.signKey, name: "Bob" });
  await store.users.add({ key: carol.signKey, name: "Carol" });
  assert.equal(await isAuthorized(store, bob.signKey), true);
  assert.equal(await isAuthorized(store, carol.signKey), true);
  assert.equal(await store.isAdmin(bob.signKey), false);
  say("  After: Bob and Carol are authorized, and no admins");

  step("Alice makes a room with end-to-end encryption.");
  const roomKey = newRoomKey();
  const room = await store.rooms.create({
    id: ROOM,
    name: "Operations",
    encrypted: true,
    owner: "alice",
    ownerPublicKey: publicKeyOf(alice),
    sealedKey: sealFor(roomKey, alice, 1),
  });
  assert.equal(room.epoch, 1);
  say(
    `  Room "${room.name}", epoch ${String(room.epoch)}. The store holds the room key sealed to Alice, and cannot open it`,
  );

  step("Bob and Carol are invited, each with the room key sealed to the own device.");
  for (const person of [bob, carol]) {
    const endpoint = person.device.name;
    await store.members.add(ROOM, {
      endpoint,
      invitedBy: "alice",
      publicKey: publicKeyOf(person),
      sealedKey: { epoch: 1, sealed: sealFor(roomKey, person, 1) },
    });
    assert.equal(await isMember(store, ROOM, endpoint), false);
    await store.members.join(ROOM, endpoint);
    assert.equal(await isMember(store, ROOM, endpoint), true);
    say(`  ${endpoint}: invited, is no member yet; joined, is one`);
  }

  step("Alice writes a message. Each opens the own sealed key and reads it.");
  const message = send(roomKey, 1, "Welcome. The passphrase is on the whiteboard.");
  keep("first-message.json", message);
  for (const person of [alice, bob, carol]) {
    say(`  ${person.device.name} reads: "${await read(store, person, message)}"`);
  }
  const { sealed } = await store.roomKeys.get(ROOM, "bob");
  assert.throws(() => unseal(sealed, carol.device, place(1, "bob")));
  say("  Bob's sealed key is of no use to Carol's device");

  step("Guests are put on the allowlist, one after the other, until somebody kills the process.");
  for (let i = 1; ; i++) {
    const key = newSignKey();
    await store.users.add({ key, name: `Guest ${String(i)}` });
    // Only what was acknowledged is told to the outside, which checks later that none of it is lost.
    await new Promise((resolve) => process.send?.(key, resolve));
  }
}

async function secondAct(store: Store): Promise<void> {
  const { alice, bob, carol } = kept("people.json") as People;
  const first = kept("first-message.json") as Message;
  const guests = kept("acknowledged.json") as string[];

  step("A new process opens the store. Nothing that was acknowledged is lost, and nothing is half done.");
  for (const key of guests) assert.equal(await isAuthorized(store, key), true);
  say(`  All ${String(guests.length)} guests whose addition was acknowledged are authorized`);
  const users: string[] = [];
  let after: string | undefined;
  do {
    const page = await store.users.list(after === undefined ? {} : { after });
    users.push(...page.items.map((user) => user.key));
    after = page.next;
  } while (after !== undefined);
  const unasked = new Set(users).size - names.length - guests.length;
  // The one that was under way when the process died may be there or not.
  assert.ok(unasked === 0 || unasked === 1);
  assert.deepEqual(
    (await store.members.list(ROOM)).map((member) => [member.endpoint, member.state]),
    [
      ["alice", "joined"],
      ["bob", "joined"],
      ["carol", "joined"],
    ],
  );
  assert.deepEqual(
    (await store.rooms.listForEndpoint("bob")).map((room) => room.id),
    [ROOM],
  );
  say(`  Alice, Bob and Carol are in the room. bob still reads: "${await read(store, bob, first)}"`);

  step("Carol is removed from the room.");
  await store.members.remove(ROOM, "carol");
  assert.equal(await isMember(store, ROOM, "carol"), false);
  await assert.rejects(store.roomKeys.get(ROOM, "carol"), isNotFound);
  assert.equal((await store.rooms.get(ROOM)).rekeyRequired, true);
  say("  She is no member from this instant on, her sealed keys are gone, and the room says: rekey required");

  step("Alice starts the next epoch, with a new room key for those who are left.");
  const roomKey = newRoomKey();
  const withCarol = new Map([alice, bob, carol].map((person) => [person.device.name, sealFor(roomKey, person, 2)]));
  const refused = await store.roomKeys.rekey(ROOM, withCarol, { expectedEpoch: 1 }).catch((error: unknown) => error);
  assert.ok(isConflict(refused));
  assert.deepEqual(refused.details?.["extra"], ["carol"]);
  say("  A rekey that still names Carol is refused: CONFLICT, extra: carol");
  const forTheRest = new Map([alice, bob].map((person) => [person.device.name, sealFor(roomKey, person, 2)]));
  const room = await store.roomKeys.rekey(ROOM, forTheRest, { expectedEpoch: 1 });
  assert.deepEqual([room.epoch, room.rekeyRequired], [2, false]);
  say(`  Epoch ${String(room.epoch)}; the debt is paid`);

  step("Alice writes the next message.");
  const second = send(roomKey, 2, "Carol has left. New passphrase tomorrow.");
  keep("second-message.json", second);
  for (const person of [alice, bob]) say(`  ${person.device.name} reads: "${await read(store, person, second)}"`);
  await assert.rejects(read(store, carol, second), isNotFound);
  const { sealed } = await store.roomKeys.get(ROOM, "bob", 2);
  assert.throws(() => unseal(sealed, carol.device, place(2, "bob")));
  say("  carol cannot: there is no key for her, and Bob's is of no use to her device");

  step("Carol's user is revoked.");
  assert.equal(await isAuthorized(store, carol.signKey), true);
  await store.users.revoke(carol.signKey);
  assert.equal(await isAuthorized(store, carol.signKey), false);
  assert.equal((await store.authorize(carol.signKey)).reason, "revoked");
  say('  She is denied from this instant on, reason "revoked"');
  await assert.rejects(store.users.revoke(alice.signKey), isConflict);
  assert.equal(await isAuthorized(store, alice.signKey), true);
  say("  Alice, the last active admin, cannot be revoked: CONFLICT");

  step("The store is closed. What cannot be proved is denied.");
  await store.close();
  assert.equal(await isAuthorized(store, alice.signKey), false);
  assert.equal(await hasAdmin(store), false);
  say("  isAuthorized and hasAdmin now answer false, for Alice too. False is never a proof of the opposite");
}

/** Whether the store was on its way elsewhere: nothing was written, and it is to be tried again there. */
const metTheMove = (error: unknown): boolean =>
  isStoreError(error) && (error.details?.["movingTo"] !== undefined || error.details?.["movedTo"] !== undefined);

async function thirdAct(store: Store, config: StoreConfig): Promise<void> {
  const { alice, bob, carol } = kept("people.json") as People;
  const guests = kept("acknowledged.json") as string[];

  step("The program moves to the cluster, while guests are put on the allowlist all the time.");
  const { jetstream } = config;
  assert.ok(jetstream !== undefined);
  const cluster = await openStore({ decentralized: true, jetstream });
  assert.equal(await isAuthorized(cluster, alice.signKey), false);
  const moving = migrate(store, cluster, { cutOver: true });
  let current = store;
  let isOver = false;
  const working = (async () => {
    while (!isOver) {
      const key = newSignKey();
      try {
        await current.users.add({ key });
      } catch (error) {
        if (!metTheMove(error)) throw error;
        await moving;
        current = cluster;
        await current.users.add({ key });
        isOver = true;
      }
      guests.push(key);
    }
  })();
  const [{ counts }] = await Promise.all([moving, working]);
  assert.ok(counts.users > names.length);
  say(
    "  Every user, room, member and key is there as it was. The guest who met the move was tried again, on the cluster",
  );
  assert.equal(await isAuthorized(store, alice.signKey), false);
  assert.equal(await isAuthorized(cluster, alice.signKey), true);
  say("  The file allows nobody any more, the cluster everybody. At no instant did both");
  await Promise.all([store.close(), cluster.close()]);

  step("The flag of the config is turned, and the program goes on.");
  await assert.rejects(openStore(config), isIncompatible);
  say("  The file opens no more: INCOMPATIBLE, and it says where the store is now");
  await using moved = await openStore({ ...config, decentralized: true });
  for (const key of guests) assert.equal(await isAuthorized(moved, key), true);
  say(`  All ${String(guests.length)} guests are authorized, those of the file and those who came meanwhile`);
  assert.equal(await moved.isAdmin(alice.signKey), true);
  await assert.rejects(moved.users.addFirstAdmin({ key: newSignKey() }), isConflict);
  assert.equal((await moved.authorize(carol.signKey)).reason, "revoked");
  say('  Alice is an admin still, and nobody becomes the first one; Carol is denied still, reason "revoked"');
  for (const name of ["first-message.json", "second-message.json"])
    say(`  bob still reads: "${await read(moved, bob, kept(name) as Message)}"`);
}

assert.ok(existsSync(folder), "run it by `npm run example`");
const config = kept("config.json") as StoreConfig;
const store = await openStore(config);
say(`\nProcess ${String(process.pid)} has opened the store (${store.backend}).`);
await (act === "first" ? firstAct(store) : act === "second" ? secondAct(store) : thirdAct(store, config));
