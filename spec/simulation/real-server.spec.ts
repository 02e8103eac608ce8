/**
 * What the simulation finds is worth as much as its servers are like real ones. Here both are asked the same, with
 * nothing going wrong, and have to answer the same.
 */
import { expect } from "chai";
import { startNatsCluster, startNatsServer } from "unibus-membership/testing";
import { Chance } from "./chance.js";
import { Comparison, RealServers } from "./comparison.js";
import { randomScript, scripts, type Script } from "./scripts.js";

const SEEDS = [1, 2] as const;
const REQUESTS = 300;
/** A machine that is busy makes servers elect anew, and an election is none of what is compared here. */
const MOST_TRIES = 3;

interface Servers {
  readonly urls: readonly string[];
  dispose(): Promise<void>;
}

async function alone(): Promise<Servers> {
  const server = await startNatsServer();
  return { urls: [server.url], dispose: () => server.dispose() };
}

for (const { replicas, start } of [
  { replicas: 1, start: alone },
  { replicas: 3, start: () => startNatsCluster() },
] as const) {
  describe(`simulation: the simulated servers answer as real ones do, R${replicas}`, function () {
    this.timeout(120_000);
    let servers: Servers | undefined;
    let real: RealServers;
    let buckets = 0;

    before(async () => {
      servers = await start();
      real = await RealServers.connect(servers.urls);
    });

    after(async () => {
      await real.close();
      await servers?.dispose();
    });

    async function compare(script: Script): Promise<Comparison> {
      for (let tries = 1; ; tries++) {
        const both = new Comparison(real, replicas, `compared${buckets++}`);
        try {
          await script(both);
          expect(await real.stray(), "messages after the end of an answer").to.deep.equal([]);
          expect(both.compared).to.be.greaterThan(0);
          return both;
        } catch (error) {
          if (tries === MOST_TRIES || !(await both.wasElected())) throw error;
        }
      }
    }

    for (const [name, script] of Object.entries(scripts)) {
      it(name, async () => {
        await compare(script);
      });
    }

    for (const seed of SEEDS) {
      it(`${REQUESTS} requests by chance, seed ${seed}`, async () => {
        const both = await compare(randomScript(new Chance(seed), REQUESTS));
        expect(both.compared).to.be.greaterThan(REQUESTS);
      });
    }
  });
}
