/**
 * Requests over the store's own subscription: they end as the clients' own do, and sooner where the client only waits.
 */
import { connect as connectV3 } from "@nats-io/transport-node";
import { expect } from "chai";
import { connect as connectV2 } from "nats";
import { openJetStream, type NatsConnection, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { failureOf, type Failure } from "../../lib/jetstream/failures.js";
import { Requests } from "../../lib/jetstream/requests.js";
import { codeOf } from "../support/code-of.js";
import { eventually } from "../support/wait.js";

type Client = Required<Pick<NatsConnection, "publish" | "subscribe">> &
  NatsConnection & {
    readonly info?: { readonly client_id: number } | undefined;
    close(): Promise<void>;
    drain(): Promise<void>;
    flush(): Promise<void>;
  };

interface Responder {
  count(): number;
  answer(times: number): void;
  end(): void;
}

interface Settings {
  readonly user: string;
  readonly inboxPrefix?: string;
}

const clients: readonly (readonly [string, (url: string, settings: Settings) => Promise<Client>])[] = [
  ["nats 2.29", (url, settings) => connectV2({ servers: url, pass: "x", reconnectTimeWait: 50, ...settings })],
  ["transport-node 3.x", (url, settings) => connectV3({ servers: url, pass: "x", reconnectTimeWait: 50, ...settings })],
];

/** Never reached: what has to come at once has failed long before. */
const timeout = 60_000;

const text = (data: Uint8Array): string => new TextDecoder().decode(data);

async function failure(request: Promise<unknown>): Promise<Failure | "answered"> {
  return request.then(() => "answered" as const, failureOf);
}

for (const [name, connect] of clients) {
  describe(`jetstream: requests, ${name}`, function () {
    this.timeout(60_000);
    let server: NatsServer;
    let client: Client;
    let requests: Requests;
    const open: Client[] = [];

    async function as(settings: Settings): Promise<Client> {
      const connection = await connect(server.url, settings);
      open.push(connection);
      return connection;
    }

    /** Those of this client alone: the others may come back at any moment after a restart. */
    async function subscriptions(): Promise<number> {
      const { connections } = (await server.monitor("/connz")) as {
        connections: { cid: number; subscriptions: number }[];
      };
      const own = connections.find(({ cid }) => cid === client.info?.client_id);
      if (own === undefined) throw new Error("the server does not know this connection");
      return own.subscriptions;
    }

    before(async () => {
      const user = (user: string, permissions: object): object => ({ user, password: "x", permissions });
      const users = [
        user("any", {}),
        user("mute", { publish: { deny: ["refused.>"] } }),
        user("deaf", { subscribe: { deny: ["_INBOX.>"] } }),
        user("own", { subscribe: { allow: ["_INBOX_own.>"] } }),
      ];
      server = await startNatsServer({ config: { authorization: { users } } });
      client = await as({ user: "any" });
    });

    beforeEach(() => {
      requests = new Requests(client);
    });

    afterEach(() => {
      requests.close();
    });

    after(async () => {
      await Promise.all(open.map((connection) => connection.close()));
      await server.dispose();
    });

    /** Answers when it is told to, all at once and the last one first. */
    async function responder(subject: string): Promise<Responder> {
      const asked: (() => void)[] = [];
      const subscription = client.subscribe(subject, {
        callback: (_error, message) => {
          const { reply } = message as unknown as { reply: string };
          asked.push(() => {
            client.publish(reply, message.data);
          });
        },
      });
      // Others' requests come over connections of their own.
      await client.flush();
      return {
        count: () => asked.length,
        answer: (times) => {
          for (const answer of asked.splice(0).reverse()) for (let i = 0; i < times; i++) answer();
        },
        end: () => {
          subscription.unsubscribe();
        },
      };
    }

    for (const times of [1, 2]) {
      it(`have each its own answer, in whatever order they come${times === 1 ? "" : ", each twice"}`, async () => {
        const echo = await responder("echo");
        const answers = Array.from({ length: 100 }, (_, n) => requests.request("echo", String(n), { timeout }));
        await eventually("all are asked", () => echo.count() === 100);
        echo.answer(times);
        const heard = (await Promise.all(answers)).map(({ data }) => text(data));
        expect(heard).to.deep.equal(Array.from({ length: 100 }, (_, n) => String(n)));
        echo.end();
      });
    }

    it("end when their time is over; what comes afterwards is nobody's", async () => {
      const echo = await responder("late");
      expect(await failure(requests.request("late", "first", { timeout: 20 }))).to.equal("lost");
      const second = requests.request("late", "second", { timeout });
      await eventually("both are asked", () => echo.count() === 2);
      echo.answer(1);
      expect(text((await second).data)).to.equal("second");
      echo.end();
    });

    it("end at once where nobody is there", async () => {
      expect(await failure(requests.request("nobody", "", { timeout }))).to.equal("no-responders");
    });

    it("end at once where the subject is not permitted, and no other of the same connection does", async () => {
      const mute = await as({ user: "mute" });
      const own = new Requests(mute);
      const echo = await responder("permitted");
      const permitted = own.request("permitted", "yes", { timeout });
      expect(await failure(own.request("refused.one", "", { timeout }))).to.equal("refused");
      expect(await Promise.all([1, 2].map(() => failure(own.request("refused.one", "", { timeout }))))).to.deep.equal([
        "refused",
        "refused",
      ]);
      await eventually("it is asked", () => echo.count() === 1);
      echo.answer(1);
      expect(text((await permitted).data)).to.equal("yes");
      echo.end();
      own.close();
    });

    it("end at once where the inbox is not permitted, each time", async () => {
      const own = new Requests(await as({ user: "deaf" }));
      const echo = await responder("unheard");
      for (let i = 0; i < 2; i++) expect(await failure(own.request("unheard", "", { timeout }))).to.equal("no-answers");
      echo.end();
      own.close();
    });

    it("of a wrapper without `status` and `options` are answered below _INBOX, and lost where they are not permitted", async () => {
      const mute = await as({ user: "mute", inboxPrefix: "_INBOX_other" });
      const subjects: string[] = [];
      const own = new Requests({
        publish: (...sent) => {
          mute.publish(...sent);
        },
        subscribe: (subject, options) => {
          subjects.push(subject);
          return mute.subscribe(subject, options);
        },
        request: () => Promise.reject(new Error("not asked this way")),
        requestMany: () => Promise.reject(new Error("not asked this way")),
        isClosed: () => mute.isClosed(),
        isDraining: () => mute.isDraining(),
      });
      expect(await failure(own.request("refused.one", "", { timeout: 500 }))).to.equal("lost");
      expect(subjects).to.have.length(1);
      expect(subjects[0]).to.match(/^_INBOX\.\w+\.\*$/);
      own.close();
    });

    for (const settings of [
      { user: "own", inboxPrefix: "_INBOX_own" },
      // To the clients it is as if there were none.
      { user: "any", inboxPrefix: "" },
    ])
      it(`are answered to the connection's own prefix, "${settings.inboxPrefix}"`, async () => {
        const own = new Requests(await as(settings));
        const echo = await responder("prefixed");
        const answer = own.request("prefixed", "heard", { timeout: 5000 });
        await eventually("it is asked", () => echo.count() === 1);
        echo.answer(1);
        expect(text((await answer).data)).to.equal("heard");
        echo.end();
        own.close();
      });

    it("end with the connection, and none begins after it", async () => {
      for (const how of ["close", "drain"] as const) {
        const connection = await as({ user: "any" });
        const own = new Requests(connection);
        const echo = await responder("ends");
        const asked = failure(own.request("ends", "", { timeout }));
        await eventually("it is asked", () => echo.count() === 1);
        await connection[how]();
        expect(await asked).to.equal("closed");
        expect(await failure(own.request("ends", "", { timeout }))).to.equal("closed");
        own.close();
        echo.end();
      }
    });

    it("are not sent while the connection drains", async () => {
      const connection = await as({ user: "any" });
      const own = new Requests(connection);
      const echo = await responder("drains");
      const asked = failure(own.request("drains", "", { timeout }));
      await eventually("it is asked", () => echo.count() === 1);
      const drained = connection.drain();
      expect(connection.isDraining()).to.equal(true);
      expect(await failure(own.request("drains", "", { timeout }))).to.equal("closed");
      await drained;
      expect(await asked).to.equal("closed");
      await client.flush();
      expect(echo.count()).to.equal(1);
      own.close();
      echo.end();
    });

    it("of two stores on one connection: one that closes takes nothing from the other, and both see what a third one takes away", async () => {
      const options = { prefix: "shared_", opTimeoutMs: 20_000 };
      const other = await as({ user: "any" });
      await using third = await openJetStream(other, 1, options);
      await third.users.addFirstAdmin({ key: "root" });
      await third.users.add({ key: "guest" });
      const first = await openJetStream(client, 1, options);
      await using second = await openJetStream(client, 1, options);
      const ask = (store: Store): Promise<boolean>[] => Array.from({ length: 500 }, () => store.isAuthorized("guest"));
      const before = [...ask(first), ...ask(second)];
      const [, after] = await Promise.all([first.close(), Promise.all(ask(second))]);
      expect((await Promise.all(before)).filter((allowed) => !allowed)).to.deep.equal([]);
      expect(after.filter((allowed) => !allowed)).to.deep.equal([]);
      expect(await first.isAuthorized("guest")).to.equal(false);
      const underWay = ask(second);
      await third.users.revoke("guest");
      expect((await Promise.all(ask(second))).filter((allowed) => allowed)).to.deep.equal([]);
      await Promise.all(underWay);
    });

    it("go on when the connection is there again", async () => {
      await failure(requests.request("nobody", "", { timeout }));
      await server.restart();
      await eventually(
        "it is there again",
        async () => (await failure(requests.request("nobody", "", { timeout: 1000 }))) === "no-responders",
      );
      const echo = await responder("again");
      const answer = requests.request("again", "heard", { timeout });
      await eventually("it is asked", () => echo.count() === 1);
      echo.answer(1);
      expect(text((await answer).data)).to.equal("heard");
      echo.end();
    });

    it("leave no subscription behind", async () => {
      await client.flush();
      const before = await subscriptions();
      const own = new Requests(client);
      await failure(own.request("nobody", "", { timeout }));
      expect(await subscriptions()).to.equal(before + 1);
      own.close();
      // Not even what comes too late begins another one.
      expect(await failure(own.request("nobody", "", { timeout }))).to.equal("closed");
      await client.flush();
      expect(await subscriptions()).to.equal(before);
    });

    it("of an opening that failed leave none behind either", async () => {
      // The client's own subscription stays.
      await client.request("nobody", "", { timeout }).catch(() => undefined);
      await client.flush();
      const before = await subscriptions();
      expect(await openJetStream(client, 3).then(() => "opened", codeOf)).to.equal("INCOMPATIBLE");
      await eventually("it is gone", async () => {
        await client.flush();
        return (await subscriptions()) === before;
      });
    });

    it("are the client's own where a connection hands through nothing else", async () => {
      const own = new Requests({
        request: (subject, payload, options) => client.request(subject, payload, options),
        requestMany: (subject, payload, options) => client.requestMany(subject, payload, options),
        isClosed: () => client.isClosed(),
        isDraining: () => client.isDraining(),
      });
      expect(await failure(own.request("nobody", "", { timeout }))).to.equal("no-responders");
      own.close();
    });
  });
}
