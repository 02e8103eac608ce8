import { Buffer } from "node:buffer";
import { nkeys as untyped } from "nats";

interface KeyPair {
  getPublicKey(): string;
  getSeed(): Uint8Array;
  sign(bytes: Uint8Array): Uint8Array;
}

/** The client's own types do not say what it is. */
export const nkeys = untyped as {
  createOperator(): KeyPair;
  createAccount(): KeyPair;
  createUser(): KeyPair;
};

const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A JWT as NATS has them, signed by an nkey. */
function jwt(issuer: KeyPair, subject: KeyPair, name: string, nats: object): string {
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    jti: `${name}-${String(now)}`,
    iat: now,
    iss: issuer.getPublicKey(),
    name,
    sub: subject.getPublicKey(),
    nats,
  };
  const signed = `${part({ typ: "JWT", alg: "ed25519-nkey" })}.${part(claims)}`;
  return `${signed}.${Buffer.from(issuer.sign(Buffer.from(signed))).toString("base64url")}`;
}

const UNLIMITED = { subs: -1, data: -1, payload: -1 };
const ACCOUNT_LIMITS = {
  ...UNLIMITED,
  imports: -1,
  exports: -1,
  wildcards: true,
  conn: -1,
  leaf: -1,
  mem_storage: -1,
  disk_storage: -1,
  streams: -1,
  consumer: -1,
};

/** An operator with one account, as a server's settings, and how to let users into the account. */
export function operator(): {
  readonly config: Readonly<Record<string, unknown>>;
  newUser(name: string): { readonly key: string; readonly creds: string };
} {
  const [own, account, system] = [nkeys.createOperator(), nkeys.createAccount(), nkeys.createAccount()];
  const accountJwt = (of: KeyPair, name: string): string =>
    jwt(own, of, name, {
      type: "account",
      version: 2,
      limits: ACCOUNT_LIMITS,
      default_permissions: { pub: {}, sub: {} },
    });
  return {
    config: {
      operator: jwt(own, own, "operator", { type: "operator", version: 2, system_account: system.getPublicKey() }),
      system_account: system.getPublicKey(),
      resolver: "MEMORY",
      resolver_preload: {
        [account.getPublicKey()]: accountJwt(account, "app"),
        [system.getPublicKey()]: jwt(own, system, "system", {
          type: "account",
          version: 2,
          limits: { ...ACCOUNT_LIMITS, disk_storage: 0, mem_storage: 0, streams: 0, consumer: 0 },
        }),
      },
    },
    newUser(name) {
      const user = nkeys.createUser();
      const token = jwt(account, user, name, { type: "user", version: 2, pub: {}, sub: {}, ...UNLIMITED });
      const seed = Buffer.from(user.getSeed()).toString("utf8");
      const block = (title: string, text: string): string =>
        `-----BEGIN ${title}-----\n${text}\n------END ${title}------\n\n`;
      return { key: user.getPublicKey(), creds: block("NATS USER JWT", token) + block("USER NKEY SEED", seed) };
    },
  };
}
