// Versions of nats-server that break a promise. The servers are real, all of one version; what they say of it on the
// way to the store is not.

import { expect } from "chai";
import { readFileSync } from "node:fs";
import { connect as connectV2 } from "nats";
import { isStoreError, openJetStream, type Replicas, type Store } from "unibus-membership";
import { startNatsCluster, type NatsCluster } from "unibus-membership/testing";
import { KNOWN_VERSIONS } from "../../lib/jetstream/versions.js";
import { errorOf } from "../support/code-of.js";
import { natsClients, type Connection } from "../support/nats-clients.js";
import { eventually } from "../support/wait.js";
import { BUCKETS, api, streamInfo, type Json } from "./support/streams.js";
import { given, tapped, type Message } from "./support/taps.js";

const opTimeoutMs = 20_000;
const decode = (data: Uint8Array): Json => JSON.parse(new TextDecoder().decode(data)) as Json;
const encode = (body: Json): Uint8Array => new TextEncoder().encode(JSON.stringify(body));

/** The same connection to servers that say that they are of other versions, by name. */
function saying(inner: Connection, versions: ReadonlyMap<string, string>, connectedTo?: () => string): Connection {
  const other = (message: Message, change: (body: Json) => Json): Message =>
    new Proxy(message, {
      get: (target, name) =>
        name === "data" ? encode(change(decode(target.data))) : (Reflect.get(target, name) as unknown),
    });
  const connection = tapped(inner, {
    request: async (send, ...asked) => {
      const answer = await send(...asked);
      if (!asked[0].startsWith("$JS.API.STREAM.")) return answer;
      return other(answer, (body) => {
        const { config, cluster } = body as { config?: { metadata?: object }; cluster?: { leader?: string } };
        const version = versions.get(cluster?.leader ?? "");
        if (config === undefined || version === undefined) return body;
        return { ...body, config: { ...config, metadata: { ...config.metadata, "_nats.ver": version } } };
      });
    },
    requestMany: async (...args) => {
      if (!args[0].startsWith("$SYS.")) return inner.requestMany(...args);
      const said: Message[] = [];
      for await (const message of await inner.requestMany(...args)) {
        said.push(
          message.data.length === 0
            ? message
            : other(message, (body) => {
                const server = body["server"] as { name: string };
                return { ...body, server: { ...server, ver: versions.get(server.name) ?? natural } };
              }),
        );
        if (said.length === 3) break;
      }
      return given(said);
    },
  });
  return new Proxy(connection, {
    get(target, name) {
      const found: unknown = Reflect.get(target, name);
      if (name !== "info") return found;
      const info = found as { server_name: string; version: string };
      return {
        ...info,
        server_name: connectedTo?.() ?? info.server_name,
        version: versions.get(info.server_name) ?? natural,
      };
    },
  });
}

/** What every server is, unless it is said otherwise: a version of which nothing is known. */
const natural = "2.14.5";

describe("jetstream: versions", function () {
  this.timeout(120_000);
  let cluster: NatsCluster;
  let connection: Connection;
  let names: readonly string[];
  let connected: string;

  before(async () => {
    const authorization = {
      users: [
        { user: "all", password: "x" },
        { user: "no-sys", password: "x", permissions: { publish: { deny: ["$SYS.>"] } } },
      ],
    };
    cluster = await startNatsCluster({ config: { authorization, no_auth_user: "all" } });
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    connection = await client.connect(cluster.urls);
    names = cluster.nodes.map(({ name }) => name);
    connected = (connection.info as { server_name: string }).server_name;
  });

  after(async () => {
    await connection.close();
    await cluster.dispose();
  });

  const open = (
    prefix: string,
    replicas: Replicas | undefined,
    versions: ReadonlyMap<string, string>,
    on = connection,
  ): Promise<Store> => openJetStream(saying(on, versions), replicas, { prefix, opTimeoutMs });

  const another = (): string => names.find((name) => name !== connected) ?? "";
  const leaderOf = async (bucket: string): Promise<string> =>
    (await streamInfo(connection, bucket)).cluster.leader ?? "";
  const count = async (prefix: string): Promise<unknown> =>
    (await api(connection, "STREAM.NAMES", { subject: `$KV.${prefix}rooms.>` }))["total"];

  it("each is in the operators' guide, as the code has it", () => {
    const guide = readFileSync("docs/operations.md", "utf8").replaceAll(/\s+/g, " ");
    for (const { versions, why } of KNOWN_VERSIONS) expect(guide).to.contain(`| ${versions} |`).and.contain(why);
  });

  for (const version of ["2.10.29", "2.12.7", "2.12.9"]) {
    it(`another server of the cluster is ${version}: new buckets are refused, with its name, and none is made`, async () => {
      const prefix = `new_${version.replaceAll(".", "_")}_`;
      const error = await errorOf(open(prefix, 1, new Map([[another(), version]])));
      expect(error.code).to.equal("INCOMPATIBLE");
      expect(error.details).to.deep.equal({ version, server: another() });
      expect(error.message).to.contain(version).and.contain(another());
      expect(await count(prefix)).to.equal(0);
    });
  }

  it("one that holds a replica is refused, also if the connection has another; one that holds none is not asked for", async () => {
    const prefix = "held_";
    await (await open(prefix, 2, new Map())).close();
    const leader = await leaderOf(`${prefix}users`);
    const follower = (await streamInfo(connection, `${prefix}users`)).cluster.replicas?.[0]?.name ?? "";
    for (const holder of [leader, follower]) {
      const error = await errorOf(open(prefix, undefined, new Map([[holder, "2.12.8"]])));
      expect(error.details, holder).to.deep.equal({ version: "2.12.8", server: holder });
    }
    const held = await Promise.all(
      BUCKETS.map(async (bucket) => {
        const { leader: first, replicas } = (await streamInfo(connection, prefix + bucket)).cluster;
        return [first, ...(replicas ?? []).map(({ name }) => name)];
      }),
    );
    const free = names.filter((name) => name !== connected && !held.flat().includes(name));
    for (const name of free) await (await open(prefix, undefined, new Map([[name, "2.12.8"]]))).close();
  });

  it("while a store is open, a leader of such a version, and a server that the connection moves to, are found within seconds of use", async () => {
    const prefix = "open_";
    const versions = new Map<string, string>();
    let at = connected;
    const store = await openJetStream(
      saying(connection, versions, () => at),
      3,
      { prefix, opTimeoutMs },
    );
    await store.users.addFirstAdmin({ key: "root" });
    const refused = async (): Promise<boolean> => {
      const end = await store.users.get("root").then(
        () => undefined,
        (error: unknown) => error,
      );
      return isStoreError(end) && end.code === "INCOMPATIBLE";
    };
    const passes = (): Promise<boolean> => store.isAdmin("root");
    const leader = await leaderOf(`${prefix}users`);
    versions.set(leader, "2.12.8");
    await eventually("the leader is found", refused);
    expect(await passes()).to.equal(false);
    versions.clear();
    await eventually("the leader is another version again", passes);
    // Of a follower nothing is heard until it is asked: which is done at once when the connection has moved.
    const follower = names.find((name) => name !== leader && name !== connected) ?? "";
    versions.set(follower, "2.12.8");
    at = "elsewhere";
    await eventually("a follower is found", refused);
    versions.clear();
    at = connected;
    await eventually("all is well again", passes);
    await store.close();
  });

  it("2.11 anywhere in the cluster: buckets are made with three replicas, but not raised to them", async () => {
    const [prefix, made] = ["raise_", "made_"];
    await (await open(prefix, 1, new Map())).close();
    for (const server of names) {
      const error = await errorOf(open(prefix, 3, new Map([[server, "2.11.17"]])));
      expect(error.code).to.equal("INCOMPATIBLE");
      expect(error.details).to.deep.equal({ version: "2.11.17", server });
      expect(error.message).to.contain("cannot raise replicas");
    }
    for (const bucket of BUCKETS)
      expect((await streamInfo(connection, prefix + bucket)).config).to.have.property("num_replicas", 1);
    await (await open(prefix, 1, new Map([[another(), "2.11.17"]]))).close();
    await (await open(made, 3, new Map([[another(), "2.11.17"]]))).close();
    expect((await streamInfo(connection, `${made}users`)).config).to.have.property("num_replicas", 3);
  });

  it("where permissions forbid to ask the servers, a store opens all the same, and knows of the leaders", async () => {
    const forbidden = await connectV2({ servers: [...cluster.urls], user: "no-sys", pass: "x" });
    const prefix = "quiet_";
    const store = await openJetStream(forbidden, 3, { prefix, opTimeoutMs });
    await store.users.addFirstAdmin({ key: "root" });
    expect(await store.isAdmin("root")).to.equal(true);
    const leader = await leaderOf(`${prefix}users`);
    const error = await errorOf(open(prefix, undefined, new Map([[leader, "2.12.8"]]), forbidden));
    expect(error.details).to.deep.equal({ version: "2.12.8", server: leader });
    await store.close();
    await forbidden.close();
  });
});
