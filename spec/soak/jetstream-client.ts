// A client process of the soak: several callers share a store, and every call is told before it begins and after it
// ended. It is killed at any time; and now and then it kills itself, just before or just after a write.

import { writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { connect } from "nats";
import { isStoreError, openJetStream, type NatsConnection, type Store } from "unibus-membership";
import { isBarrier } from "../jetstream/support/messages.js";
import {
  ENDPOINTS,
  ROOMS,
  USERS,
  clock,
  type Line,
  type Orders,
  type RoomOperation,
  type SoakOperation,
  type UserOperation,
} from "./jetstream-history.js";
import { random } from "./random.js";

type Publishing = Required<Pick<NatsConnection, "publish" | "subscribe">>;
type Connection = NatsConnection & Publishing & { close(): Promise<void> };

const SLEEPER = new Int32Array(new SharedArrayBuffer(4));

/** Milliseconds in which this process could do nothing because its parent was too busy to listen. */
let unheard = 0;

/** Written at once: what was told is with the parent, also when this process is killed. */
function tell(line: Line): void {
  const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
  const began = performance.now();
  for (let sent = 0; sent < bytes.length;) {
    try {
      sent += writeSync(1, bytes, sent);
    } catch (error) {
      // A pipe that is full: the parent is busy.
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      Atomics.wait(SLEEPER, 0, 0, 5);
    }
  }
  unheard += performance.now() - began;
}

const pause = async (ms: number): Promise<void> => {
  await new Promise((resolve) => setTimeout(resolve, ms));
};

class Client {
  readonly #orders: Orders;
  readonly #next: () => number;
  #connection: Connection | undefined;
  #store: Store | undefined;
  #writes = 0;
  #dieAt = Number.POSITIVE_INFINITY;
  #dieAfter = false;
  #calls = 0;
  #known = new Map<string, number>();

  constructor(orders: Orders) {
    this.#orders = orders;
    this.#next = random(orders.seed);
    if (this.#next() < 0.5) this.#dieAt = 20 + Math.floor(this.#next() * 600);
    this.#dieAfter = this.#next() < 0.5;
  }

  async open(): Promise<void> {
    const { servers, prefix, timeoutMs } = this.#orders;
    for (;;) {
      try {
        this.#connection ??= await connect({
          servers: [...servers],
          maxReconnectAttempts: -1,
          reconnectTimeWait: 100,
          waitOnFirstConnect: true,
        });
        this.#store = await openJetStream(this.#mortal(this.#connection), undefined, {
          prefix,
          opTimeoutMs: timeoutMs,
        });
        tell({ note: "open", t: clock() });
        return;
      } catch (error) {
        tell({ note: `could not open: ${String(error)}`, t: clock() });
        await pause(100);
      }
    }
  }

  /** The connection is gone, and the store with it. */
  async cut(): Promise<void> {
    const store = this.#store;
    const connection = this.#connection;
    this.#connection = undefined;
    this.#store = undefined;
    await connection?.close();
    await this.open();
    await store?.close();
  }

  /** The process ends between any two writes. */
  #mortal(connection: Connection): NatsConnection {
    let last: string | undefined;
    const publish: Publishing["publish"] = (subject, payload, options) => {
      const isWrite = (subject.startsWith("$KV.") && !isBarrier(subject)) || subject.includes("STREAM.PURGE");
      const dies = isWrite && ++this.#writes === this.#dieAt;
      if (dies && !this.#dieAfter) process.kill(process.pid, "SIGKILL");
      if (dies) last = options?.reply;
      connection.publish(subject, payload, options);
    };
    const subscribe: Publishing["subscribe"] = (subject, { callback }) =>
      connection.subscribe(subject, {
        callback: (error, message) => {
          if (error === null && message.subject === last) process.kill(process.pid, "SIGKILL");
          callback(error, message);
        },
      });
    return new Proxy(connection, {
      get(target, name) {
        if (name === "publish") return publish;
        if (name === "subscribe") return subscribe;
        const found: unknown = Reflect.get(target, name);
        return typeof found === "function" ? (found.bind(target) as unknown) : found;
      },
    });
  }

  async lane(): Promise<void> {
    for (;;) {
      await pause(this.#next() * 40);
      const store = this.#store;
      if (store === undefined) continue;
      const generation = Math.floor((clock() - this.#orders.began) / 1000 / this.#orders.generationMs);
      if (this.#next() < 0.5) await this.#user(store, `g${generation}-u${this.#below(USERS)}`, generation);
      else await this.#room(store, `g${generation}-r${this.#below(ROOMS)}`, generation);
    }
  }

  #below(n: number): number {
    return Math.floor(this.#next() * n);
  }

  async #call(at: string, op: SoakOperation, run: (id: string) => Promise<string>): Promise<void> {
    const id = `${this.#orders.name}.${++this.#calls}`;
    const began = clock();
    const before = unheard;
    tell({ i: id, t: began, at, op });
    let out: string;
    try {
      out = await run(id);
    } catch (error) {
      out = isStoreError(error) ? (error.outcome ?? error.code) : `not a StoreError: ${String(error)}`;
    }
    const t = clock();
    // `keys` is two calls.
    const late = (t - began) / 1000 - (unheard - before) - this.#orders.timeoutMs * (op.f === "keys" ? 2 : 1);
    tell({ r: id, t, out, ...(late > 0 ? { late } : {}) });
  }

  async #user(store: Store, key: string, generation: number): Promise<void> {
    const role = this.#next() < 0.5 ? "admin" : "member";
    const plain: { readonly [F in UserOperation["f"]]: () => Promise<unknown> } = {
      add: () => store.users.add({ key, role }),
      role: () => store.users.update(key, { role }),
      revoke: () => store.users.revoke(key),
      reinstate: () => store.users.reinstate(key),
      authorize: () => Promise.resolve(),
      isAdmin: () => Promise.resolve(),
      listed: () => Promise.resolve(),
    };
    const dice = this.#next();
    if (dice < 0.6) {
      await this.#call(key, { f: "authorize" }, async () => (await store.authorize(key)).reason);
    } else if (dice < 0.7) {
      await this.#call(key, { f: "isAdmin" }, async () => String(await store.isAdmin(key)));
    } else if (dice < 0.72) {
      await this.#listed(store, generation);
    } else {
      const changes = ["add", "add", "role", "revoke", "reinstate", "revoke", "reinstate"] as const;
      const f = changes[this.#below(changes.length)] ?? "add";
      await this.#call(key, f === "add" ? { f, role } : f === "role" ? { f, role } : { f }, async () => {
        await plain[f]();
        return "ok";
      });
    }
  }

  /** Lists would have ten times the time, and a caller that waits does nothing else. */
  get #bounds(): { timeoutMs: number } {
    return { timeoutMs: this.#orders.timeoutMs };
  }

  async #listed(store: Store, generation: number): Promise<void> {
    const keys = Array.from({ length: USERS }, (_, n) => `g${generation}-u${n}`);
    const found = store.users.list({ limit: 1000 }, this.#bounds);
    await Promise.all(
      keys.map((key) =>
        this.#call(key, { f: "listed" }, async () => {
          const user = (await found).items.find((each) => each.key === key);
          return user === undefined ? "absent" : `${user.role} ${user.status}`;
        }),
      ),
    );
  }

  async #room(store: Store, room: string, generation: number): Promise<void> {
    const e = this.#below(ENDPOINTS);
    const name = (index: number): string => `e${index}`;
    const epoch = this.#known.get(room) ?? 1;
    const sealed = (id: string): Uint8Array => Buffer.from(id);
    const write = (op: RoomOperation, run: (id: string) => Promise<unknown>): Promise<void> =>
      this.#call(room, op, async (id) => {
        await run(id);
        return "ok";
      });
    const dice = this.#below(100);
    if (dice < 22) {
      await this.#call(room, { f: "isMember", e }, async () => String(await store.isMember(room, name(e))));
    } else if (dice < 30) {
      await this.#call(room, { f: "list" }, async () => {
        const members = await store.members.list(room, this.#bounds);
        const as = Array.from(
          { length: ENDPOINTS },
          (_, index) => members.find(({ endpoint }) => endpoint === name(index))?.state[0] ?? ".",
        );
        return `${members
          .filter(({ role }) => role === "owner")
          .map(({ endpoint }) => endpoint.slice(1))
          .join()} ${as.join("")}`;
      });
    } else if (dice < 33) {
      const found = store.members.listForEndpoint(name(e), this.#bounds);
      await Promise.all(
        Array.from({ length: ROOMS }, (_, n) =>
          this.#call(`g${generation}-r${n}`, { f: "indexed", e }, async () => {
            const member = (await found).find(({ roomId }) => roomId === `g${generation}-r${n}`);
            return member === undefined ? "out" : `${member.role} ${member.state[0] ?? ""}`;
          }),
        ),
      );
    } else if (dice < 36) {
      const found = store.rooms.listForEndpoint(name(e), this.#bounds);
      await Promise.all(
        Array.from({ length: ROOMS }, (_, n) =>
          this.#call(`g${generation}-r${n}`, { f: "indexed", e }, async () =>
            (await found).some(({ id }) => id === `g${generation}-r${n}`) ? "in" : "out",
          ),
        ),
      );
    } else if (dice < 42) {
      await this.#call(room, { f: "keys", e }, async () => {
        // As fresh as this call, because the list before it was.
        await store.members.list(room, this.#bounds);
        const keys = await store.roomKeys.list(room, name(e), this.#bounds);
        return JSON.stringify(keys.map((key) => [key.epoch, Buffer.from(key.sealed).toString()]));
      });
    } else if (dice < 52) {
      await write({ f: "create", e }, (id) =>
        store.rooms.create({ id: room, owner: name(e), encrypted: true, sealedKey: sealed(id) }),
      );
    } else if (dice < 54) {
      await write({ f: "delete" }, () => store.rooms.delete(room));
    } else if (dice < 66) {
      const joined = this.#next() < 0.5;
      const keyed = this.#next() < 0.5;
      await write({ f: "add", e, joined, ...(keyed ? { epoch } : {}) }, (id) =>
        store.members.add(room, {
          endpoint: name(e),
          state: joined ? "joined" : "invited",
          ...(keyed ? { sealedKey: { epoch, sealed: sealed(id) } } : {}),
        }),
      );
    } else if (dice < 72) {
      await write({ f: "join", e }, () => store.members.join(room, name(e)));
    } else if (dice < 82) {
      await write({ f: "remove", e }, () => store.members.remove(room, name(e)));
    } else if (dice < 86) {
      await write({ f: "owner", e }, () => store.rooms.update(room, { owner: name(e) }));
    } else if (dice < 91) {
      await write({ f: "put", e, epoch }, (id) => store.roomKeys.put(room, name(e), epoch, sealed(id)));
    } else {
      await this.#rekey(store, room, sealed);
    }
  }

  async #rekey(store: Store, room: string, sealed: (id: string) => Uint8Array): Promise<void> {
    try {
      const [{ epoch }, members] = await Promise.all([store.rooms.get(room), store.members.list(room, this.#bounds)]);
      this.#known.set(room, epoch);
      const named = members.map(({ endpoint }) => endpoint);
      const pattern = Array.from({ length: ENDPOINTS }, (_, n) => (named.includes(`e${n}`) ? "x" : ".")).join("");
      await this.#call(room, { f: "rekey", epoch, members: pattern }, async (id) => {
        const { epoch: after } = await store.roomKeys.rekey(
          room,
          new Map(named.map((endpoint) => [endpoint, sealed(id)])),
          { expectedEpoch: epoch, ...this.#bounds },
        );
        this.#known.set(room, after);
        return "ok";
      });
    } catch (error) {
      if (!isStoreError(error)) throw error;
    }
  }
}

async function main(orders: Orders): Promise<void> {
  const client = new Client(orders);
  await client.open();
  createInterface({ input: process.stdin })
    .on("line", (line) => {
      if (line === "cut") void client.cut();
    })
    .on("close", () => process.exit(0));
  await Promise.all(Array.from({ length: orders.lanes }, () => client.lane()));
}

process.on("uncaughtException", (error) => {
  tell({ note: `uncaught: ${error.stack ?? String(error)}`, t: clock() });
  process.exit(3);
});
void main(JSON.parse(process.argv[2] ?? "{}") as Orders);
