/**
 * End-to-end encryption as an app would do it, with nothing but `node:crypto`. The store sees what `seal` returns and
 * never what is inside.
 */
import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  randomBytes,
  type JsonWebKey,
  type KeyObject,
} from "node:crypto";

const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const PUBLIC_KEY_BYTES = 32;

/** What stays on one person's device. */
export interface Device {
  readonly name: string;
  /** As JSON, because the device keeps it over restarts. */
  readonly privateKey: JsonWebKey;
  readonly publicKey: string;
}

export function newDevice(name: string): Device {
  const { privateKey, publicKey } = generateKeyPairSync("x25519");
  return {
    name,
    privateKey: privateKey.export({ format: "jwk" }),
    publicKey: Buffer.from(rawPublicKey(publicKey)).toString("base64url"),
  };
}

/** A sign key as hex, by which users are known to the allowlist. */
export function newSignKey(): string {
  return Buffer.from(rawPublicKey(generateKeyPairSync("ed25519").publicKey)).toString("hex");
}

export function newRoomKey(): Uint8Array {
  return randomBytes(32);
}

/**
 * The room key for one device only: an ephemeral X25519 key, HKDF-SHA256, AES-256-GCM. `context` binds it to its place.
 */
export function seal(roomKey: Uint8Array, recipient: Uint8Array, context: string): Uint8Array {
  const ephemeral = generateKeyPairSync("x25519");
  const sender = rawPublicKey(ephemeral.publicKey);
  const shared = diffieHellman({ privateKey: ephemeral.privateKey, publicKey: fromRaw(recipient) });
  return Buffer.concat([
    sender,
    encrypt(derive(shared, Buffer.concat([sender, recipient]), "room key"), roomKey, context),
  ]);
}

export function unseal(sealed: Uint8Array, device: Device, context: string): Uint8Array {
  const sender = sealed.subarray(0, PUBLIC_KEY_BYTES);
  const recipient = Buffer.from(device.publicKey, "base64url");
  const privateKey = createPrivateKey({ key: device.privateKey, format: "jwk" });
  const shared = diffieHellman({ privateKey, publicKey: fromRaw(sender) });
  return decrypt(
    derive(shared, Buffer.concat([sender, recipient]), "room key"),
    sealed.subarray(PUBLIC_KEY_BYTES),
    context,
  );
}

/** A message that whoever holds the room key reads. */
export function encryptMessage(roomKey: Uint8Array, text: string, context: string): Uint8Array {
  return encrypt(derive(roomKey, Buffer.alloc(0), "message"), Buffer.from(text), context);
}

export function decryptMessage(roomKey: Uint8Array, message: Uint8Array, context: string): string {
  return Buffer.from(decrypt(derive(roomKey, Buffer.alloc(0), "message"), message, context)).toString();
}

function derive(secret: Uint8Array, salt: Uint8Array, purpose: string): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", secret, salt, `unibus-membership example: ${purpose}`, 32));
}

function encrypt(key: Uint8Array, plain: Uint8Array, context: string): Uint8Array {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(Buffer.from(context));
  return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

/** Throws unless every bit is what was encrypted, under this key, for this context. */
function decrypt(key: Uint8Array, bytes: Uint8Array, context: string): Uint8Array {
  const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(0, NONCE_BYTES))
    .setAAD(Buffer.from(context))
    .setAuthTag(bytes.subarray(-TAG_BYTES));
  return Buffer.concat([decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES)), decipher.final()]);
}

function rawPublicKey(key: KeyObject): Uint8Array {
  return Buffer.from(key.export({ format: "jwk" }).x ?? "", "base64url");
}

function fromRaw(bytes: Uint8Array): KeyObject {
  return createPublicKey({
    key: { kty: "OKP", crv: "X25519", x: Buffer.from(bytes).toString("base64url") },
    format: "jwk",
  });
}
