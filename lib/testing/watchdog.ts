import { spawn, type ChildProcess } from "node:child_process";
import { Socket } from "node:net";

// Run by `node -e`: as text, because a bundler's or a loader's helpers do not exist over there.
// It outlives this process, however that ends, and sees the end as the end of its input.
const PROGRAM = `
const { readFileSync, rmSync } = require("node:fs");
const watched = new Map();
let text = "";

function isOurs(pid, directory) {
  try {
    return readFileSync("/proc/" + pid + "/cmdline", "utf8").includes(directory);
  } catch (error) {
    // Gone, or a platform without /proc: there the pid is all that is known.
    return process.platform !== "linux";
  }
}

process.stdin.setEncoding("utf8");
process.stdin.on("data", (chunk) => {
  const lines = (text + chunk).split("\\n");
  text = lines.pop();
  for (const line of lines) {
    const { directory, pid, keep } = JSON.parse(line);
    if (keep) watched.set(directory, pid);
    else watched.delete(directory);
  }
});
process.stdin.on("end", () => {
  for (const [directory, pid] of watched) {
    try {
      if (pid && isOurs(pid, directory)) process.kill(pid, "SIGKILL");
    } catch {}
  }
  for (const directory of watched.keys()) {
    try {
      rmSync(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
    } catch {}
  }
});
`;

let watchdog: ChildProcess | undefined;

/**
 * From now on the folder is removed, and the process with it killed, when this process ends without having said
 * `forget`: by an exit, by a signal, by SIGKILL too.
 */
export function watch(directory: string, pid?: number): void {
  tell({ directory, pid, keep: true });
}

export function forget(directory: string): void {
  tell({ directory, keep: false });
}

function tell(message: { directory: string; pid?: number | undefined; keep: boolean }): void {
  watchdog ??= startWatchdog();
  watchdog.stdin?.write(`${JSON.stringify(message)}\n`);
}

function startWatchdog(): ChildProcess {
  const child = spawn(process.execPath, ["-e", PROGRAM], {
    stdio: ["pipe", "ignore", "ignore"],
    // In a group of its own: Ctrl-C in a terminal is for the tests, and it has to outlive them.
    detached: true,
    env: { ...process.env, NODE_OPTIONS: "" },
  });
  child.unref();
  // Typed as any stream; it is a pipe, which would keep this process alive.
  if (child.stdin instanceof Socket) child.stdin.unref();
  const lost = (): void => {
    if (watchdog === child) watchdog = undefined;
  };
  child.on("error", lost);
  child.on("exit", lost);
  child.stdin.on("error", lost);
  return child;
}
