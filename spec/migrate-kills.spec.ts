// A process that migrates is killed at instants of each phase. After each death at most one side allows, and the next
// run ends the same.

import { expect } from "chai";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { isIncompatible, migrate, openJetStream, openSqlite, type Store } from "unibus-membership";
import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { digestOf, fill, linesOf } from "./support/export-cases.js";
import { natsClients, type Connection } from "./support/nats-clients.js";
import { random } from "./soak/random.js";

const opTimeoutMs = 20_000;
const root = fileURLToPath(new URL("..", import.meta.url));
const child = fileURLToPath(new URL("support/migrate-child.ts", import.meta.url));
const runs = Number(process.env["UNIBUS_MIGRATE_RUNS"] ?? 3);
const seed = Number(process.env["UNIBUS_SEED"] ?? 1);
/** Most is between the fence and the end. */
const PHASES = ["copy", "follow", "cut over", "cut over", "cut over", "cut over"];

describe("migrations that are killed", function () {
  this.timeout(120_000 * runs);
  let server: NatsServer;
  let connection: Connection;
  let folder: string;

  before(async () => {
    server = await startNatsServer();
    const [client] = natsClients;
    if (client === undefined) throw new Error("no client");
    connection = await client.connect(server.url);
    folder = await mkdtemp(join(tmpdir(), "unibus-kills-"));
  });
  after(async () => {
    await connection.close();
    await server.dispose();
    await rm(folder, { recursive: true });
  });

  /** `undefined`: it was moved away from. */
  const opened = (opening: Promise<Store>): Promise<Store | undefined> =>
    opening.catch((error: unknown) => {
      if (isIncompatible(error) && error.details?.["movedTo"] !== undefined) return undefined;
      throw error;
    });

  /** Runs the child until some time after it has said a phase. Answers whether it came to the end before. */
  async function killed(args: readonly string[], phase: string, afterMs: number): Promise<boolean> {
    const run = spawn(process.execPath, ["--import", "tsx", child, ...args], {
      cwd: root,
      stdio: ["ignore", "pipe", "inherit"],
    });
    const exited = once(run, "exit");
    let isDone = false;
    for await (const line of createInterface({ input: run.stdout })) {
      isDone ||= line === "done";
      if (line !== phase) continue;
      setTimeout(() => run.kill("SIGKILL"), afterMs);
    }
    await exited;
    return isDone;
  }

  for (const direction of ["there", "back"] as const)
    it(`${direction === "there" ? "from a file to a server" : "from a server to a file"}, and run again`, async () => {
      const next = random(seed);
      for (let i = 0; i < runs; i++) {
        const prefix = `${direction}${String(i)}_`;
        const path = join(folder, `${prefix}.db`);
        const openFile = (): Promise<Store> => openSqlite(path, { opTimeoutMs });
        const openCluster = (): Promise<Store> => openJetStream(connection, 1, { prefix, opTimeoutMs });
        const [openFrom, openTo] = direction === "there" ? [openFile, openCluster] : [openCluster, openFile];
        const first = await openFrom();
        await fill(first);
        const digest = digestOf(await linesOf(first));
        await first.close();
        await (await openTo()).close();
        const phase = PHASES[Math.floor(next() * PHASES.length)] ?? "cut over";
        const afterMs = Math.floor(next() * 60);
        const isDone = await killed([direction, path, server.url, prefix], phase, afterMs);
        const what = `run ${String(i)}, ${String(afterMs)} ms after ${phase}`;
        const [from, to] = [await opened(openFrom()), await openTo()];
        const allowed = [(await from?.isAuthorized("root")) ?? false, await to.isAuthorized("root")];
        expect(allowed, what).to.not.deep.equal([true, true]);
        if (isDone || from === undefined) expect(allowed, what).to.deep.equal([false, true]);
        if (from !== undefined) expect((await migrate(from, to, { cutOver: true })).counts.users, what).to.equal(6);
        expect([(await from?.isAuthorized("root")) ?? false, await to.isAuthorized("root")], what).to.deep.equal([
          false,
          true,
        ]);
        expect(digestOf(await linesOf(to)), what).to.equal(digest);
        await Promise.all([from?.close(), to.close()]);
        expect(await opened(openFrom()), what).to.equal(undefined);
      }
    });
});
