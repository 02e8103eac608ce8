/**
 * Calls on single records have the store's time, and what touches many ten times that. A backend that hangs shows
 * which: the error says how long was waited. That it was no less is measured; how much more is the machine's affair.
 */
import { expect } from "chai";
import files from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { isTimeout, openJetStream, openSqlite, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { natsClients, type Connection } from "./support/nats-clients.js";
import { tapped } from "./jetstream/support/taps.js";
import { failure, useFolder } from "./sqlite/support/folder.js";

const ONE_MS = 150;
const MANY_MS = 10 * ONE_MS;
/** Of the clock that timers go by. */
const EARLY_MS = 2;

/** The one way in which the store writes. */
const plain = files as unknown as { write: (...args: readonly unknown[]) => unknown };

async function endsAfter(ms: number, what: string, call: () => Promise<unknown>): Promise<void> {
  const began = performance.now();
  const error = await failure(call());
  expect(isTimeout(error), `${what}: ${String(error)}`).to.equal(true);
  expect(String(error), what).to.include(` ${String(ms)} ms`);
  expect(performance.now() - began, what).to.be.at.least(ms - EARLY_MS);
}

/** What is tested is the time while nothing answers: a busy machine may need more to open and close. */
async function opened(open: () => Promise<Store>): Promise<Store> {
  for (const until = performance.now() + 30_000; ;) {
    try {
      return await open();
    } catch (error) {
      if (performance.now() > until) throw error;
    }
  }
}

async function closed(store: Store): Promise<void> {
  await store.close().catch((error: unknown) => {
    if (!isTimeout(error)) throw error;
  });
}

const rekey = (store: Store): Promise<unknown> =>
  store.roomKeys.rekey("room", new Map([["own", new Uint8Array(1)]]), { expectedEpoch: 0 });

describe("the time that a call has", function () {
  this.timeout(60_000);

  describe("on a disk that hangs", () => {
    const folder = useFolder();
    const { write } = plain;
    let hung: (() => void)[] = [];
    /** ES modules, of which the library is some, have imported the function that was there before. */
    const put = (other: typeof write): void => {
      plain.write = other;
      syncBuiltinESMExports();
    };
    const hang = (): void => {
      put((...args) => hung.push(() => write(...args)));
    };
    const goOn = (): void => {
      put(write);
      for (const each of hung.splice(0)) each();
    };
    beforeEach(() => {
      hung = [];
    });
    afterEach(goOn);

    it("is ten times as long for a rekey", async () => {
      const store = await opened(() => openSqlite(folder.file(), { opTimeoutMs: ONE_MS }));
      await store.rooms.create({ id: "room", owner: "own", encrypted: true }, { timeoutMs: 20_000 });
      hang();
      await Promise.all([
        endsAfter(MANY_MS, "a rekey", () => rekey(store)),
        endsAfter(ONE_MS, "one record", () => store.rooms.update("room", { name: "n" })),
      ]);
      goOn();
      await closed(store);
    });

    it("is ten times as long for opening", async () => {
      hang();
      await endsAfter(MANY_MS, "opening", () => openSqlite(folder.file(), { opTimeoutMs: ONE_MS }));
      goOn();
      // It gives up the file when the disk has answered, and not before.
      await closed(await opened(() => openSqlite(folder.file())));
    });
  });

  describe("on servers that do not answer", () => {
    let server: NatsServer;
    let inner: Connection;
    let silent = false;
    let speak: () => void = () => undefined;
    const spoken = new Promise<void>((resolve) => (speak = resolve));
    const answered = async <T>(answer: Promise<T>): Promise<T> => {
      const found = await answer;
      // Until the end: what a call gave up must not go on.
      if (silent) await spoken;
      return found;
    };
    let connection: Connection;
    before(async () => {
      server = await startNatsServer();
      const [client] = natsClients;
      if (client === undefined) throw new Error("no client");
      inner = await client.connect(server.url);
      connection = tapped(inner, {
        request: (send, ...asked) => answered(send(...asked)),
        requestMany: (...args) => answered(inner.requestMany(...args)),
      });
    });
    after(async () => {
      await inner.close();
      await server.dispose();
    });

    it("is ten times as long for lists, a rekey and opening", async () => {
      const store = await opened(() => openJetStream(connection, 1, { opTimeoutMs: ONE_MS }));
      silent = true;
      const many: Readonly<Record<string, () => Promise<unknown>>> = {
        "rooms.list": () => store.rooms.list(),
        "rooms.listForEndpoint": () => store.rooms.listForEndpoint("own"),
        "members.list": () => store.members.list("room"),
        "members.listForEndpoint": () => store.members.listForEndpoint("own"),
        "roomKeys.list": () => store.roomKeys.list("room", "own"),
        "users.list": () => store.users.list(),
        "a rekey": () => rekey(store),
        opening: () => openJetStream(connection, 1, { opTimeoutMs: ONE_MS }),
      };
      await Promise.all([
        ...Object.entries(many).map(([what, call]) => endsAfter(MANY_MS, what, call)),
        endsAfter(ONE_MS, "one record", () => store.users.get("u")),
      ]);
      silent = false;
      speak();
      await closed(store);
    });
  });
});
