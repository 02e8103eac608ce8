import { spawn, type ChildProcessByStdio } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../..", import.meta.url));

/** For the code of children: `say(text)` reaches the parent before anything else happens. */
const PRELUDE = `
import { writeSync } from "node:fs";
import { openSqlite } from "unibus-membership";
const [path, ...rest] = process.argv.slice(1);
const say = (text) => void writeSync(1, text + "\\n");
`;

/** A process of its own, which imports the built package by name and says lines. */
export class Child {
  readonly process: ChildProcessByStdio<null, Readable, Readable>;
  readonly said: string[] = [];
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  errors = "";
  #heard: (() => void)[] = [];

  constructor(
    code: string,
    args: readonly string[],
    wrapper: readonly string[] = [],
    nodeArgs: readonly string[] = [],
  ) {
    const command = [...wrapper, process.execPath, ...nodeArgs, "--input-type=module", "-e", PRELUDE + code, ...args];
    this.process = spawn(command[0] ?? "", command.slice(1), { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    this.process.stderr.setEncoding("utf8").on("data", (text: string) => (this.errors += text));
    const lines = createInterface({ input: this.process.stdout });
    lines.on("line", (line) => {
      this.said.push(line);
      for (const look of this.#heard.splice(0)) look();
    });
    this.ended = new Promise((resolve) => {
      this.process.once("error", (error) => {
        this.errors += String(error);
        resolve({ code: null, signal: null });
      });
      this.process.once("close", (code, signal) => {
        resolve({ code, signal });
        for (const look of this.#heard.splice(0)) look();
      });
    });
  }

  /** Waits until it has said this line. */
  async says(line: string): Promise<void> {
    while (!this.said.includes(line)) {
      if (this.process.exitCode !== null || this.process.signalCode !== null) {
        throw new Error(`the child ended without having said "${line}": ${this.said.join(" | ")} ${this.errors}`);
      }
      await new Promise<void>((resolve) => this.#heard.push(resolve));
    }
  }

  async kill(): Promise<void> {
    this.process.kill("SIGKILL");
    await this.ended;
  }
}
