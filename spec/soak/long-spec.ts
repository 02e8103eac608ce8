// A spec of npm test in its long form: bounded by what there is to try, not by --seconds.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

export function longSpec(path: string, env: Readonly<Record<string, string>>): () => Promise<void> {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  return async () => {
    const child = spawn(process.execPath, ["--import", "tsx", "tools/spec-file.ts", path], {
      cwd: root,
      stdio: "inherit",
      env: { ...process.env, ...env },
    });
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", resolve);
    });
    if (code !== 0) throw new Error(`${path} failed`);
  };
}
