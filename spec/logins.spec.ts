import { expect } from "chai";
import { Buffer } from "node:buffer";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { credsAuthenticator } from "nats";
import { isStoreError, openStore, type NatsConnectOptions, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { nkeys, operator } from "./support/nats-jwt.js";
import { eventually } from "./support/wait.js";

const opTimeoutMs = 10_000;

function open(connect: NatsConnectOptions): Promise<Store> {
  return openStore({ decentralized: true, jetstream: { connect, opTimeoutMs } });
}

async function works(connect: NatsConnectOptions): Promise<void> {
  await using store = await open(connect);
  expect((await store.authorize("nobody")).reason).to.equal("unknown");
}

async function refusal(connect: NatsConnectOptions): Promise<{ code: string; all: string; details: unknown }> {
  try {
    const store = await open(connect);
    await store.close();
  } catch (error) {
    if (!isStoreError(error)) throw error;
    return {
      code: error.code,
      details: error.details,
      all: JSON.stringify(error) + String(error) + String(error.stack),
    };
  }
  throw new Error("opened");
}

describe("ways to log in to NATS", function () {
  this.timeout(60_000);

  describe("by an nkey", () => {
    const user = nkeys.createUser();
    const seed = Buffer.from(user.getSeed()).toString("utf8");
    let server: NatsServer;
    before(async () => {
      server = await startNatsServer({ config: { authorization: { users: [{ nkey: user.getPublicKey() }] } } });
    });
    after(() => server.dispose());

    it("takes a seed", async () => {
      await works({ servers: server.url, nkeySeed: seed });
    });

    it("says UNAVAILABLE for another seed, and shows neither it nor a password in an address, but what was tried", async () => {
      const other = Buffer.from(nkeys.createUser().getSeed()).toString("utf8");
      const address = server.url.replace(/^(nats:\/\/)?/, "nats://someone:hunter2@");
      const { code, all, details } = await refusal({ servers: [address], nkeySeed: other, maxReconnectAttempts: 0 });
      expect(code).to.equal("UNAVAILABLE");
      expect(all).not.to.include(other);
      expect(all).not.to.include("hunter2");
      expect(details).to.deep.equal({ servers: [server.url.replace(/^(nats:\/\/)?/, "nats://")] });
    });
  });

  describe("by creds", () => {
    const own = operator();
    let folder: string;
    let server: NatsServer;
    before(async () => {
      folder = await mkdtemp(join(tmpdir(), "unibus-creds-"));
      server = await startNatsServer({ config: own.config });
    });
    after(async () => {
      await server.dispose();
      await rm(folder, { recursive: true });
    });

    it("takes what stands in a creds file, from a secret, from a file, and by an authenticator of one's own", async () => {
      const { creds: text } = own.newUser("anybody");
      const credsFile = join(folder, "user.creds");
      await writeFile(credsFile, text);
      await works({ servers: server.url, creds: text });
      await works({ servers: server.url, credsFile });
      await works({ servers: server.url, authenticator: credsAuthenticator(Buffer.from(text)) });
    });

    it("says UNAVAILABLE of a file that is not there or has no creds, and shows nothing of it", async () => {
      const credsFile = join(folder, "broken.creds");
      expect(await refusal({ servers: server.url, credsFile })).to.include({ code: "UNAVAILABLE" });
      await writeFile(credsFile, "a secret that is none");
      const { code, all } = await refusal({ servers: server.url, credsFile });
      expect(code).to.equal("UNAVAILABLE");
      expect(all).not.to.include("a secret");
      expect(all).to.include(credsFile);
    });

    it("reads the file again at each reconnect, and keeps what it had while the file is half written", async () => {
      const credsFile = join(folder, "renewed.creds");
      const [first, second] = [own.newUser("first"), own.newUser("second")];
      await writeFile(credsFile, first.creds);
      await using store = await open({ servers: server.url, credsFile, reconnectTimeWait: 50 });
      const users = async (): Promise<unknown[]> => {
        const { connections } = (await server.monitor("/connz?auth=1")) as {
          connections: { authorized_user?: string }[];
        };
        return connections.map(({ authorized_user: user }) => user);
      };
      const again = async (text: string): Promise<void> => {
        await writeFile(credsFile, text);
        await server.restart();
        await eventually(
          "the store has connected again",
          async () => (await store.authorize("nobody")).reason === "unknown",
        );
      };
      expect(await users()).to.deep.equal([first.key]);
      await again(second.creds);
      expect(await users()).to.deep.equal([second.key]);
      await again("-----BEGIN");
      expect(await users()).to.deep.equal([second.key]);
    });
  });
});
