/** Records that somebody has damaged: each denies what it is of, and nothing else. */
import { expect } from "chai";
import { openJetStream, type Store } from "unibus-membership";
import { codeOf } from "../support/code-of.js";
import type { Connection } from "../support/nats-clients.js";
import { useServer } from "../support/use-server.js";
import { tokenOf } from "./support/format-1.js";

const opTimeoutMs = 20_000;
/** So that a check which is held up for all of its time is told from one that denies. */
const SOON_MS = 5000;

const USER = `users.user.${tokenOf("guest")}`;
const ROOM = `rooms.room.${tokenOf("room")}`;

const WAYS: Readonly<Record<string, (key: string) => string>> = {
  "is no JSON": () => "%",
  "was deleted by a client of KV": () => "",
  "says nothing": (k) => JSON.stringify({ k }),
  "says that it stands elsewhere": () => JSON.stringify({ k: "elsewhere", state: "open" }),
};

/** What is answered with each of them damaged, where it is not as before. */
const DENIED: Readonly<Record<string, Readonly<Record<string, boolean | string>>>> = {
  [USER]: { guest: false },
  [ROOM]: { inRoom: false },
  "users.admins": { root: false, hasAdmin: false, first: "CORRUPT" },
  "users.store": { root: false, guest: false, amy: false, hasAdmin: false, first: "UNAVAILABLE" },
  "rooms.store": { inRoom: false, inOther: false },
};

const WHOLE = { root: true, guest: true, amy: true, inRoom: true, inOther: true, hasAdmin: true, first: "CONFLICT" };

describe("jetstream: a record that was damaged", function () {
  this.timeout(120_000);
  let connection: Connection;
  let other: Connection;
  let prefixes = 0;

  useServer((first, second) => {
    connection = first;
    other = second;
  });

  async function answers(store: Store): Promise<object> {
    const [root, guest, amy, inRoom, inOther, hasAdmin, first] = await Promise.all([
      store.isAdmin("root"),
      store.isAuthorized("guest"),
      store.isAuthorized("amy"),
      store.isMember("room", "ann"),
      store.isMember("other", "ann"),
      store.hasAdmin(),
      store.users.addFirstAdmin({ key: "late" }).then(() => "added", codeOf),
    ]);
    return { root, guest, amy, inRoom, inOther, hasAdmin, first };
  }

  for (const [place, denied] of Object.entries(DENIED)) {
    it(`denies itself, and nothing else, at once: ${place}`, async () => {
      for (const [how, make] of Object.entries(WAYS)) {
        const prefix = `damaged${String(++prefixes)}_`;
        await using here = await openJetStream(connection, 1, { prefix, opTimeoutMs });
        await using there = await openJetStream(other, 1, { prefix, opTimeoutMs, cacheBytes: 0 });
        await here.users.addFirstAdmin({ key: "root" });
        for (const key of ["guest", "amy"]) await here.users.add({ key });
        for (const id of ["room", "other"]) {
          await here.rooms.create({ id, owner: "owner" });
          await here.members.add(id, { endpoint: "ann", state: "joined" });
        }
        for (const store of [here, there]) expect(await answers(store)).to.deep.equal(WHOLE);
        const key = place.slice(place.indexOf(".") + 1);
        await connection.request(`$KV.${prefix}${place}`, make(key), { timeout: 10_000 });
        const began = performance.now();
        for (const [name, store] of Object.entries({ here, there }))
          expect(await answers(store), `${how}, ${name}`).to.deep.equal({ ...WHOLE, ...denied });
        expect(performance.now() - began, how).to.be.lessThan(SOON_MS);
      }
    });
  }
});
