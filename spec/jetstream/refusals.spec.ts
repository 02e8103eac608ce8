/**
 * A refused conditional write proves nothing. A leader that has lost its quorum refuses at once; one refuses for a
 * write in flight that then dies; and where a client reaches both an old leader and the new one, the old one may refuse
 * what the new one stores. The refusals here are put in a real server's place; what they must not do is seen on that
 * server.
 */
import { expect } from "chai";
import type { Store } from "unibus-membership";
import type { Connection } from "../support/nats-clients.js";
import { tapped } from "./support/taps.js";
import { useTwoStores } from "./support/two-stores.js";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const token = (id: string): string => Buffer.from(id).toString("base64url");

/** `instead`: nothing is stored. `besides`: it is stored, and the refusal is what is heard. */
type How = "instead" | "besides";

function refusing(inner: Connection) {
  let planned: { prefix: string; how: How; code: number } | undefined;
  let refused = 0;
  return {
    /** Refuses the next write of a subject that begins so. */
    refuse(prefix: string, how: How, code: 10071 | 10164): void {
      planned = { prefix, how, code };
      refused = 0;
    },
    get refused(): number {
      return refused;
    },
    connection: tapped(inner, {
      request: async (send, ...asked) => {
        const [subject] = asked;
        if (planned === undefined || !subject.startsWith(planned.prefix)) return send(...asked);
        const { how, code } = planned;
        planned = undefined;
        refused++;
        if (how === "besides") await send(...asked);
        const error = { code: 400, err_code: code, description: "wrong last sequence" };
        return { data: bytes(JSON.stringify({ error, stream: "", seq: 0 })) };
      },
    }),
  };
}

describe("jetstream: a refused write is no evidence", function () {
  this.timeout(60_000);
  let faulty: ReturnType<typeof refusing>;
  let a: Store;
  let b: Store;

  useTwoStores(refusing, 20_000, (stores) => {
    ({ a, b, faults: faulty } = stores);
  });

  before(() => a.users.addFirstAdmin({ key: "root" }));

  for (const code of [10071, 10164] as const) {
    const id = (name: string): string => `${name}-${String(code)}`;

    it(`a removed member stays away when putting the removal in its place is refused (${String(code)})`, async () => {
      const room = id("removal");
      await a.rooms.create({ id: room, owner: "o", encrypted: true });
      await a.members.add(room, { endpoint: "m", state: "joined" });
      await a.members.remove(room, "m");
      faulty.refuse(`$KV.members.${token(room)}.${token("m")}.`, "instead", code);
      await b.members.add(room, { endpoint: "x" });
      expect(faulty.refused).to.equal(1);
      expect(await a.isMember(room, "m")).to.equal(false);
      expect((await a.members.list(room)).map((member) => member.endpoint)).to.deep.equal(["o", "x"]);
    });

    it(`an added member stays when putting the addition in its place is refused (${String(code)})`, async () => {
      const room = id("addition");
      await a.rooms.create({ id: room, owner: "o" });
      await a.members.add(room, { endpoint: "m", state: "joined" });
      faulty.refuse(`$KV.members.${token(room)}.${token("m")}.`, "instead", code);
      await b.members.add(room, { endpoint: "x" });
      expect(faulty.refused).to.equal(1);
      expect(await a.isMember(room, "m")).to.equal(true);
      expect((await b.members.list(room)).map((member) => member.endpoint)).to.deep.equal(["m", "o", "x"]);
    });

    it(`a revoked admin stays revoked when putting the revocation in its place is refused (${String(code)})`, async () => {
      const key = id("admin");
      await a.users.add({ key, role: "admin" });
      await a.users.revoke(key);
      faulty.refuse(`$KV.users.user.${token(key)}`, "instead", code);
      await b.users.add({ key: id("another"), role: "admin" });
      expect(faulty.refused).to.equal(1);
      expect(await a.isAuthorized(key)).to.equal(false);
      expect(await b.isAdmin(key)).to.equal(false);
    });

    for (const how of ["instead", "besides"] as const) {
      const where = `refused ${how === "instead" ? "and not stored" : "although stored"} (${String(code)})`;
      const of = (name: string): string => `${id(name)}-${how}`;

      it(`a room is made, whole, once: ${where}`, async () => {
        const room = of("made");
        faulty.refuse(`$KV.rooms.room.${token(room)}`, how, code);
        await b.rooms.create({ id: room, owner: of("owner"), encrypted: true, sealedKey: bytes("1") });
        expect(faulty.refused).to.equal(1);
        expect((await a.rooms.listForEndpoint(of("owner"))).map((each) => each.id)).to.deep.equal([room]);
        expect((await a.roomKeys.get(room, of("owner"))).epoch).to.equal(1);
      });

      it(`a member is added, with index and key: ${where}`, async () => {
        const room = of("joined");
        await a.rooms.create({ id: room, owner: "o", encrypted: true, sealedKey: bytes("1") });
        faulty.refuse(`$KV.rooms.room.${token(room)}`, how, code);
        await b.members.add(room, { endpoint: of("m"), sealedKey: { epoch: 1, sealed: bytes("m") } });
        expect(faulty.refused).to.equal(1);
        expect((await a.rooms.listForEndpoint(of("m"))).map((each) => each.id)).to.deep.equal([room]);
        expect((await a.roomKeys.list(room, of("m"))).length).to.equal(1);
      });

      it(`a rekey wins, with its keys: ${where}`, async () => {
        const room = of("rekeyed");
        await a.rooms.create({ id: room, owner: "o", encrypted: true, sealedKey: bytes("1") });
        faulty.refuse(`$KV.rooms.room.${token(room)}`, how, code);
        expect((await b.roomKeys.rekey(room, new Map([["o", bytes("2")]]), { expectedEpoch: 1 })).epoch).to.equal(2);
        expect(faulty.refused).to.equal(1);
        expect((await a.roomKeys.list(room, "o")).map((key) => key.epoch)).to.deep.equal([1, 2]);
      });

      it(`a room is deleted: ${where}`, async () => {
        const room = of("deleted");
        await a.rooms.create({ id: room, owner: of("o") });
        faulty.refuse(`$KV.rooms.room.${token(room)}`, how, code);
        await b.rooms.delete(room);
        expect(faulty.refused).to.equal(1);
        expect(await a.rooms.listForEndpoint(of("o"))).to.deep.equal([]);
      });

      it(`a key is put: ${where}`, async () => {
        const room = of("put");
        await a.rooms.create({ id: room, owner: "o", encrypted: true, sealedKey: bytes("1") });
        await a.members.add(room, { endpoint: "m" });
        faulty.refuse(`$KV.room_keys.key.${token(room)}.`, how, code);
        await b.roomKeys.put(room, "m", 1, bytes("m"));
        expect(faulty.refused).to.equal(1);
        expect((await a.roomKeys.get(room, "m")).epoch).to.equal(1);
      });

      it(`a user is added: ${where}`, async () => {
        const key = of("user");
        faulty.refuse(`$KV.users.user.${token(key)}`, how, code);
        await b.users.add({ key });
        expect(faulty.refused).to.equal(1);
        expect(await a.isAuthorized(key)).to.equal(true);
      });

      it(`an admin is demoted: ${where}`, async () => {
        const key = of("demoted");
        await a.users.add({ key, role: "admin" });
        faulty.refuse("$KV.users.admins", how, code);
        await b.users.update(key, { role: "member" });
        expect(faulty.refused).to.equal(1);
        expect(await a.isAdmin(key)).to.equal(false);
      });
    }
  }
});
