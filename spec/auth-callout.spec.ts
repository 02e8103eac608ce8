import { expect } from "chai";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { nkeys } from "@nats-io/transport-node";
import { Issuer, hasSigned, serverClaims } from "../example/auth-callout/nkey-jwt.js";
import { ROLES, readKey, setUp } from "../example/auth-callout/setup.js";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));
const bytes = (text: string): Uint8Array => Buffer.from(text);

describe("the auth callout", function () {
  this.timeout(600_000);

  it("goes through its demo on one server, with real clients, without a surprise", async () => {
    const args = ["--import", "tsx", join(root, "example/auth-callout/demo.ts"), "--replicas", "1", "--users", "2"];
    const { stdout } = await run(process.execPath, args, { cwd: root, timeout: 580_000 });
    expect(stdout).to.match(/Revoked to disconnected: median -?\d+ ms, longest -?\d+ ms; none comes back/);
    expect(stdout.trim().split("\n").at(-1)).to.equal("Everything was as it should be.");
  });

  it("takes a signature of the nkey that is named, in either base64, and nothing else", () => {
    const [user, other, server] = [nkeys.createUser(), nkeys.createUser(), nkeys.createServer()];
    const signature = Buffer.from(user.sign(bytes("nonce")));
    const name = user.getPublicKey();
    for (const encoding of ["base64", "base64url"] as const)
      expect(hasSigned(name, "U", "nonce", signature.toString(encoding)), encoding).to.equal(true);
    const text = signature.toString("base64");
    const wrong: [string, "U" | "N", string, string][] = [
      [other.getPublicKey(), "U", "nonce", text],
      [name, "U", "another", text],
      [name, "U", "nonce", ""],
      [name, "U", "nonce", text.slice(4)],
      [name, "N", "nonce", text],
      [name.toLowerCase(), "U", "nonce", text],
      [`${name} `, "U", "nonce", text],
      ["", "U", "nonce", text],
      [server.getPublicKey(), "U", "nonce", Buffer.from(server.sign(bytes("nonce"))).toString("base64")],
    ];
    for (const [nkey, kind, nonce, signed] of wrong)
      expect(hasSigned(nkey, kind, nonce, signed), `${nkey} ${kind} ${nonce} ${signed}`).to.equal(false);
  });

  it("signs as the libraries of NATS do, and reads what a server has signed alone", () => {
    const account = nkeys.createAccount();
    const issuer = new Issuer(Buffer.from(account.getSeed()).toString(), account.getPublicKey());
    const [header = "", body = "", signature = ""] = issuer.sign({ sub: "s", aud: "a", more: 1 }).split(".");
    const raw = Buffer.from(signature, "base64url");
    expect(account.verify(bytes(`${header}.${body}`), raw)).to.equal(true);
    expect(JSON.parse(Buffer.from(body, "base64url").toString())).to.include({ iss: account.getPublicKey(), more: 1 });
    expect(() => serverClaims(`${header}.${body}.${signature}`)).to.throw("not signed by a server");

    const server = nkeys.createServer();
    const claims = { iss: server.getPublicKey(), sub: "s" };
    const signed = `${header}.${Buffer.from(JSON.stringify(claims)).toString("base64url")}`;
    const token = `${signed}.${Buffer.from(server.sign(bytes(signed))).toString("base64url")}`;
    expect(serverClaims(token)).to.deep.equal({ server: server.getPublicKey(), claims });
    const forged = Buffer.from(JSON.stringify({ ...claims, sub: "other" })).toString("base64url");
    expect(() => serverClaims(token.replace(signed, `${header}.${forged}`))).to.throw("not signed by a server");
  });

  it("sets up keys that only their owner reads, never twice, and tells servers none of the secrets", async () => {
    const folder = await mkdtemp(join(tmpdir(), "unibus-callout-"));
    try {
      await setUp(folder);
      const config = await readFile(join(folder, "auth.conf"), "utf8");
      for (const role of ROLES) {
        const { seed, publicKey } = await readKey(folder, role);
        expect((await stat(join(folder, `${role}.seed`))).mode & 0o777).to.equal(0o600);
        expect(config).to.include(publicKey).and.not.include(seed);
      }
      expect(await setUp(folder).then(() => "again", String)).to.include("EEXIST");
      expect((await readdir(folder)).sort()).to.deep.equal(
        ["auth.conf", ...ROLES.map((role) => `${role}.seed`)].sort(),
      );
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
