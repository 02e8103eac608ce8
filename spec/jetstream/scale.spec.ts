import { startNatsServer, type NatsServer } from "unibus-membership/testing";
import { ScaleRun } from "../soak/jetstream-scale.js";

/**
 * Just beyond what one request of the server answers, which is 1,024; `npm run soak -- --jetstream-scale` goes far
 * beyond.
 */
const scale = { users: 1_500, rooms: 1_200, roomsOfOne: 1_100, members: 1_300, epochs: 1_030 };

describe("jetstream: many records", function () {
  this.timeout(120_000);
  let server: NatsServer;
  let run: ScaleRun;

  before(async () => {
    server = await startNatsServer();
    run = await ScaleRun.open(scale, server.url, 1, (line) => console.log(`      ${line}`));
  });

  after(async () => {
    await run.close();
    await server.dispose();
  });

  it("lists all of many users, and every method works on them", () => run.users());

  it("lists all of many rooms, and all of one endpoint, and every method works on them", () => run.rooms());

  it("lists all members of a big room, every method works on them, and deleting it leaves nothing", () =>
    run.members());

  it("lists all keys of many epochs, and deleting the room leaves nothing", () => run.epochs());
});
