/**
 * The keys of a deployment, and what nats-servers have to know of them.
 *
 * `node --import tsx example/auth-callout/setup.ts FOLDER` writes both into a folder: `auth.conf`, which
 * `nats-server.conf` includes, and a `.seed` file for whoever connects.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { nkeys } from "@nats-io/transport-node";

/** Who is let in without a callout, and whose key signs what the callout answers. */
export const ROLES = ["issuer", "service", "system", "admin"] as const;
export type Role = (typeof ROLES)[number];
/** Where the store is, and who serves and administers it. */
export const CALLOUT_ACCOUNT = "AUTH";
/** Where those are whom the callout lets in. */
export const APP_ACCOUNT = "APP";

/** Answers arrive below an inbox that nobody else may subscribe to. */
export const inboxOf = (name: string): string => `_INBOX_${name}`;

export interface Key {
  readonly seed: string;
  readonly publicKey: string;
}

export async function readKey(folder: string, role: Role): Promise<Key> {
  const seed = (await readFile(join(folder, `${role}.seed`), "utf8")).trim();
  return { seed, publicKey: nkeys.fromSeed(Buffer.from(seed)).getPublicKey() };
}

/** Makes keys, and resolves to what all servers of the cluster have in common. */
export async function setUp(folder: string): Promise<Readonly<Record<string, unknown>>> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const role of ROLES) {
    const pair = role === "issuer" ? nkeys.createAccount() : nkeys.createUser();
    await writeFile(join(folder, `${role}.seed`), pair.getSeed(), { mode: 0o600, flag: "wx" });
  }
  const config = serverConfig(async (role) => (await readKey(folder, role)).publicKey);
  // A configuration of nats-server may be JSON.
  await writeFile(
    join(folder, "auth.conf"),
    `${JSON.stringify(await config, null, 2)
      .slice(1, -1)
      .trim()}\n`,
  );
  return await config;
}

const BUCKETS = ["rooms", "members", "rooms_by_member", "room_keys", "users"];

/** The `checker` of docs/security.md, which cannot write a record, and what `members.listForEndpoint` reads. */
const READS_THE_STORE = [
  ...BUCKETS.flatMap((bucket) => [`$KV.${bucket}.proof.*`, `$JS.API.STREAM.INFO.KV_${bucket}`]),
  ...["users", "rooms", "members", "rooms_by_member"].map((bucket) => `$JS.API.DIRECT.GET.KV_${bucket}`),
  "$SYS.REQ.ACCOUNT.PING.STATZ",
  "$JS.API.INFO",
];

async function serverConfig(keyOf: (role: Role) => Promise<string>): Promise<Readonly<Record<string, unknown>>> {
  const [issuer, service, system, admin] = await Promise.all(ROLES.map(keyOf));
  return {
    accounts: {
      [CALLOUT_ACCOUNT]: {
        jetstream: "enabled",
        users: [
          {
            nkey: service,
            permissions: {
              publish: { allow: READS_THE_STORE },
              // In the queue of the service alone: nobody listens beside it.
              subscribe: { allow: [`${inboxOf("service")}.>`, "$SYS.REQ.USER.AUTH callout"] },
              allow_responses: { max: 1, expires: "5s" },
            },
          },
          {
            nkey: admin,
            permissions: {
              publish: { allow: ["$KV.>", "$JS.API.>", "$SYS.REQ.ACCOUNT.PING.STATZ"] },
              subscribe: { allow: [`${inboxOf("admin")}.>`] },
            },
          },
        ],
      },
      [APP_ACCOUNT]: {},
      SYS: {
        users: [
          {
            nkey: system,
            permissions: {
              publish: { allow: ["$SYS.REQ.SERVER.*.KICK"] },
              subscribe: { allow: [`${inboxOf("system")}.>`, "$SYS.ACCOUNT.*.DISCONNECT"] },
            },
          },
        ],
      },
    },
    system_account: "SYS",
    authorization: {
      timeout: 2,
      auth_callout: { issuer, account: CALLOUT_ACCOUNT, auth_users: [service, system, admin] },
    },
  };
}

const [, script, folder] = process.argv;
if (script === fileURLToPath(import.meta.url)) {
  if (folder === undefined) throw new Error("usage: setup.ts FOLDER");
  await setUp(folder);
}
