/**
 * NATS's keys and tokens, as far as a callout needs them. A login takes two signatures and two verifications. NATS's
 * libraries make them in JavaScript, 5 to 10 ms each, in the thread that also proves the sessions. `node:crypto` makes
 * all four in less than a millisecond.
 */
import { createHash, createPrivateKey, createPublicKey, sign, verify, type KeyObject } from "node:crypto";

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const KEY_BYTES = 32;
/** What PKCS #8 puts before the seed of an Ed25519 key. */
const PKCS8 = Buffer.from("302e020100300506032b657004220420", "hex");

function base32(text: string): Buffer {
  const bytes: number[] = [];
  let bits = 0;
  let value = 0;
  for (const character of text) {
    value = ((value << 5) | ALPHABET.indexOf(character)) & 0xfff;
    bits += 5;
    if (bits < 8) continue;
    bits -= 8;
    bytes.push((value >> bits) & 0xff);
  }
  return Buffer.from(bytes);
}

/**
 * The public key of an nkey: `U...` of users, `N...` of servers. Its checksum is not looked at: it is for typing
 * errors, and a key with another checksum is another name, which nobody has put on the allowlist.
 */
function publicKey(nkey: string, kind: "U" | "N"): KeyObject {
  if (!/^[UN][A-Z2-7]{55}$/.test(nkey) || !nkey.startsWith(kind)) throw new Error(`not an nkey of kind ${kind}`);
  const x = base32(nkey)
    .subarray(1, 1 + KEY_BYTES)
    .toString("base64url");
  return createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
}

/** Whether whoever holds the nkey has signed the text. The signature may be of either base64. */
export function hasSigned(nkey: string, kind: "U" | "N", text: string, signature: string): boolean {
  try {
    return verify(null, Buffer.from(text), publicKey(nkey, kind), Buffer.from(signature, "base64"));
  } catch {
    return false;
  }
}

const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** Signs tokens with the seed of an account, `SA...`. */
export class Issuer {
  readonly #key: KeyObject;
  readonly #name: string;

  constructor(seed: string, publicKey: string) {
    const der = Buffer.concat([PKCS8, base32(seed).subarray(2, 2 + KEY_BYTES)]);
    this.#key = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
    this.#name = publicKey;
  }

  sign(claims: {
    readonly sub: string;
    readonly aud: string;
    readonly exp?: number;
    readonly [more: string]: unknown;
  }) {
    const issued = { ...claims, iss: this.#name, iat: Math.floor(Date.now() / 1000) };
    const jti = createHash("sha256").update(JSON.stringify(issued)).digest("base64url");
    const signed = `${part({ typ: "JWT", alg: "ed25519-nkey" })}.${part({ ...issued, jti })}`;
    return `${signed}.${sign(null, Buffer.from(signed), this.#key).toString("base64url")}`;
  }
}

/** The claims of a token that a server has signed, and the server. Throws if none has. */
export function serverClaims(token: string): { readonly server: string; readonly claims: unknown } {
  const [header = "", body = "", signature = ""] = token.split(".");
  const claims: unknown = JSON.parse(Buffer.from(body, "base64url").toString("utf8"));
  const server = text(claims, "iss");
  if (!hasSigned(server, "N", `${header}.${body}`, signature)) throw new Error("not signed by a server");
  return { server, claims };
}

/** What stands at a path of something that was parsed. `undefined` if nothing does. */
export function at(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>(
    (inner, name) =>
      typeof inner === "object" && inner !== null
        ? new Map<string, unknown>(Object.entries(inner)).get(name)
        : undefined,
    value,
  );
}

/** The text there. `""` if there is none. */
export function text(value: unknown, ...path: readonly string[]): string {
  const found = at(value, ...path);
  return typeof found === "string" ? found : "";
}
