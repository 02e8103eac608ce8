/**
 * `npm run auth-callout`: three nats-servers that ask a service who may log in, which asks a store on the same servers.
 * It ends with an error at the first surprise. `-- --replicas 1`: one server. `-- --users 100`: so many are revoked.
 */
import assert from "node:assert/strict";
import { createConnection } from "node:net";
import { parseArgs } from "node:util";
import { nkeyAuthenticator, nkeys, nuid, type NatsConnection } from "@nats-io/transport-node";
import { subjectToken } from "unibus-membership";
import { FOREVER, Stage, eventually, medianAndLongest, newPerson, type Person } from "./stage.js";

const { values } = parseArgs({
  options: { replicas: { type: "string", default: "3" }, users: { type: "string", default: "20" } },
});
const replicas = values.replicas === "1" ? 1 : 3;
assert.ok(["1", "3"].includes(values.replicas) && /^[1-9]\d*$/.test(values.users), "--replicas 1|3 --users N");

/** Should a kick be lost, on a machine that is very busy, what is waited for happens by then. */
const LOGIN_SECONDS = 60;
const SHORT_LOGIN_SECONDS = 5;
/** Room ids may be anything. */
const [GENERAL, PLANS] = ["general", "plans for 2027.* (all > here)"];

const stage = new Stage();
const say = (line: string): void => console.log(line);
const ms = (time: number): string => `${Math.round(time)} ms`;
const alice = newPerson("Alice");
const bob = newPerson("Bob");

/** Whether a connection is there, as its client sees it, and since when. */
class Presence {
  isIn = true;
  outAt = 0;
  backAt = 0;
  /** What the server has said that it may not. */
  violations = 0;

  constructor(readonly connection: NatsConnection) {
    void this.#follow();
  }

  async #follow(): Promise<void> {
    for await (const { type } of this.connection.status()) {
      if (type === "disconnect") [this.isIn, this.outAt] = [false, performance.now()];
      if (type === "reconnect") [this.isIn, this.backAt] = [true, performance.now()];
      if (type === "error") this.violations++;
    }
  }
}

/** Whether the server lets a connection listen to a room, and publish there. */
async function mayUse({ connection }: Presence, roomId: string): Promise<boolean> {
  const subject = `room.${subjectToken(roomId)}.chat`;
  const publishing = setInterval(() => {
    if (!connection.isClosed()) connection.publish(subject, "hello");
  }, 100);
  try {
    return await new Promise((resolve) => {
      connection.subscribe(subject, { max: 1, callback: (error) => resolve(error === null) });
    });
  } finally {
    clearInterval(publishing);
  }
}

/**
 * Whether somebody gets into a room by having a message of their own ask for an answer there. Somebody else listens in
 * that room. The server says one or the other.
 */
async function mayAnswerInto(roomId: string, from: string, who: Presence, listener: Presence): Promise<boolean> {
  const there = `room.${subjectToken(roomId)}.by-answer`;
  let isHeard = false;
  const listening = listener.connection.subscribe(there, { callback: () => void (isHeard = true) });
  await listener.connection.flush();
  const asked = `room.${subjectToken(from)}.ask`;
  const own = who.connection.subscribe(asked, { callback: (_, message) => void message.respond("in by an answer") });
  const before = who.violations;
  who.connection.publish(asked, "answer there", { reply: there });
  await eventually("the server has said whether that may be", () => isHeard || who.violations > before);
  listening.unsubscribe();
  own.unsubscribe();
  return isHeard;
}

/** Answers go by a subject of the room: whoever is in it may publish there, and nobody else. */
async function mayAsk(roomId: string, { connection }: Presence, { connection: answering }: Presence): Promise<void> {
  const room = `room.${subjectToken(roomId)}`;
  answering.subscribe(`${room}.question`, { max: 1, callback: (_, message) => void message.respond("an answer") });
  await answering.flush();
  const options = { timeout: 60_000, noMux: true, reply: `${room}.answer.${nuid.next()}` };
  assert.equal((await connection.request(`${room}.question`, "a question", options)).string(), "an answer");
}

/**
 * Somebody logs in, and again on the same connection, which no client library does. Resolves to how often they were let
 * in.
 */
async function loginTwice({ nkey, seed }: Person): Promise<number> {
  const { hostname, port } = new URL(stage.nodes[0]?.url ?? "");
  const socket = createConnection({ host: hostname, port: Number(port) });
  let said = "";
  let isClosed = false;
  socket.on("data", (data: Buffer) => (said += data.toString()));
  socket.on("error", () => undefined).on("close", () => (isClosed = true));
  await eventually("the server says its nonce", () => said.includes("nonce"));
  const nonce = /"nonce":"([^"]+)"/.exec(said)?.[1] ?? "";
  const sig = Buffer.from(nkeys.fromSeed(seed).sign(Buffer.from(nonce))).toString("base64url");
  const login = `CONNECT ${JSON.stringify({ verbose: false, nkey, sig, headers: true, no_responders: true })}\r\nPING\r\n`;
  const times = (): number => said.split("PONG").length - 1;
  for (const nth of [1, 2]) {
    socket.write(login);
    await eventually("the server has answered", () => isClosed || times() === nth);
  }
  socket.destroy();
  return times();
}

async function refused(person: Person, options: object = {}): Promise<number> {
  const began = performance.now();
  // At the server that is left when there is no quorum.
  await assert.rejects(stage.login(person, options, stage.urls.slice(0, 1)));
  return performance.now() - began;
}

async function enrol(): Promise<void> {
  say(
    `\n${replicas === 1 ? "A server is" : "Three servers are"} up, and no service. Alice and Bob are put on the list.`,
  );
  const { users, rooms, members } = stage.admin;
  await users.addFirstAdmin({ key: alice.nkey, name: alice.name });
  await users.add({ key: bob.nkey, name: bob.name });
  for (const id of [GENERAL, PLANS]) {
    await rooms.create({ id, owner: alice.nkey });
    await members.add(id, { endpoint: bob.nkey, state: "joined" });
  }
  say(`  Nobody answers for the servers: Alice is refused, after ${ms(await refused(alice))}`);

  say("\nThe service starts. Its own users need no callout.");
  await stage.startService(LOGIN_SECONDS);
  const mallory = newPerson("Mallory");
  say(`  Mallory is on no list: refused, after ${ms(await refused(mallory))}`);
  const asBob = (nonce?: string): object => ({ ...nkeyAuthenticator(mallory.seed)(nonce), nkey: bob.nkey });
  say(
    `  Mallory with Bob's nkey, and a signature of her own: refused, after ${ms(await refused(mallory, { authenticator: asBob }))}`,
  );
}

async function comeIn(): Promise<{ ofAlice: Presence; ofBob: Presence }> {
  const began = performance.now();
  const ofAlice = new Presence(await stage.loginAtLast(alice, FOREVER, stage.urls.slice(0, 1)));
  const ofBob = new Presence(await stage.loginAtLast(bob, FOREVER));
  say(`  Alice and Bob are in, after ${ms(performance.now() - began)} for both`);
  for (const who of [ofAlice, ofBob]) for (const room of [GENERAL, PLANS]) assert.equal(await mayUse(who, room), true);
  assert.equal(await mayUse(ofBob, "another room"), false);
  await mayAsk(PLANS, ofAlice, ofBob);
  say("  Both may use the rooms that they have joined, ask and answer in them, and use no other");
  const carol = newPerson("Carol");
  await stage.admin.users.add({ key: carol.nkey });
  const ofCarol = new Presence(await stage.loginAtLast(carol, FOREVER));
  assert.equal(await mayUse(ofCarol, GENERAL), false);
  const before = ofCarol.violations;
  ofCarol.connection.publish("anything");
  await eventually("Carol is told no", () => ofCarol.violations > before);
  say("  Carol has joined none: she is in, and may publish nothing");
  await ofCarol.connection.close();
  let times = 0;
  // A machine that is busy can refuse the first one too.
  while (times === 0) times = await loginTwice(carol);
  assert.equal(times, 1);
  say("  Carol logs in again on a connection that is in: refused, and closed");
  return { ofAlice, ofBob };
}

async function removeFromRoom(ofAlice: Presence, ofBob: Presence): Promise<void> {
  say("\nBob is removed from a room.");
  await stage.admin.members.remove(PLANS, bob.nkey);
  const removed = performance.now();
  await eventually("Bob is back with less", async () => ofBob.isIn && !(await mayUse(ofBob, PLANS)));
  say(
    `  Kicked ${ms(ofBob.outAt - removed)} after the acknowledgement, and back ${ms(ofBob.backAt - ofBob.outAt)} later by himself`,
  );
  assert.equal(await mayUse(ofBob, GENERAL), true);
  assert.equal(await mayAnswerInto(PLANS, GENERAL, ofBob, ofAlice), false);
  say("  He may use the other one, and no longer this one, nor by a message that asks for an answer there");
}

async function revoke(): Promise<void> {
  const guests = Array.from({ length: Number(values.users) }, (_, i) => newPerson(`guest ${i}`));
  say(`\n${guests.length} guests log in, and each is revoked.`);
  const times: number[] = [];
  for (const guest of guests) {
    times.push(await stage.revokedToDisconnected(guest));
    await refused(guest);
  }
  const { median, longest } = medianAndLongest(times);
  say(`  Revoked to disconnected: median ${ms(median)}, longest ${ms(longest)}; none comes back`);
}

async function loseQuorum(everybody: readonly [Presence, Presence]): Promise<void> {
  const dying = stage.nodes.slice(replicas === 1 ? 0 : 1);
  say(
    `\n${replicas === 1 ? "The server is killed" : "Two of three servers are killed. Alice is connected to the third one"}.`,
  );
  const began = performance.now();
  await Promise.all(dying.map((node) => node.kill()));
  const killed = performance.now();
  await eventually("all are out", () => everybody.every(({ isIn }) => !isIn));
  const last = Math.max(...everybody.map(({ outAt }) => outAt));
  say(`  All are out, the last one ${ms(Math.max(0, last - killed))} after the last server had died`);
  if (replicas > 1) say(`  Nobody logs in at the third one: Alice is refused, after ${ms(await refused(alice))}`);
  assert.ok(everybody.every(({ isIn }) => !isIn));
  await Promise.all(dying.map((node) => node.restart()));
  const restarted = performance.now();
  await eventually("all are back", () => everybody.every(({ isIn }) => isIn));
  say(
    `  The servers are back, ${ms(restarted - began)} after they were killed. Alice and Bob are in ${ms(performance.now() - restarted)} later, by themselves`,
  );
}

async function loseService(everybody: readonly [Presence, Presence]): Promise<void> {
  say(`\nThe service ends, and another one starts, of which a login lasts ${SHORT_LOGIN_SECONDS} s.`);
  await stage.endService("SIGTERM");
  await eventually("all are out", () => everybody.every(({ isIn }) => !isIn));
  say("  The one that ends kicks whom it has let in: nobody would watch them");
  await stage.startService(SHORT_LOGIN_SECONDS);
  await eventually("all are back", () => everybody.every(({ isIn }) => isIn));
  say("  Alice and Bob are in again by the other one. It is killed, so that nobody can kick");
  await stage.endService("SIGKILL");
  const killed = performance.now();
  await stage.admin.users.revoke(bob.nkey);
  await eventually("all are out", () => everybody.every(({ isIn }) => !isIn));
  say(`  Bob is revoked. The servers put both out when their login is over, ${ms(performance.now() - killed)} later`);
  await stage.startService(LOGIN_SECONDS);
  await eventually("Alice is back", () => everybody[0].isIn);
  assert.equal(everybody[1].isIn, false);
  say("  A new service lets Alice in, and not Bob");
}

const interrupted = new AbortController();
stage.endOnSignals(() => {
  interrupted.abort();
});
try {
  await stage.startServers(replicas);
  await enrol();
  const { ofAlice, ofBob } = await comeIn();
  await removeFromRoom(ofAlice, ofBob);
  await revoke();
  await loseQuorum([ofAlice, ofBob]);
  await loseService([ofAlice, ofBob]);
  say("\nEverything was as it should be.");
} catch (error) {
  if (!interrupted.signal.aborted) console.error("\nA surprise:", error, stage.events.slice(-20));
  process.exitCode = 1;
} finally {
  await stage[Symbol.asyncDispose]();
}
