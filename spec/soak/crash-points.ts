// The crash points of npm test with every rival of every operation: bounded by what there is to try, not by time.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

export async function run(): Promise<void> {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const child = spawn(process.execPath, ["--import", "tsx", "tools/spec-file.ts", "spec/jetstream/crash-points.spec.ts"], {
    cwd: root, stdio: "inherit", env: { ...process.env, UNIBUS_EVERY_RIVAL: "1" },
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  if (code !== 0) throw new Error("a crash point failed");
}
