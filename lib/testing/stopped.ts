import { execFile } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { promisify } from "node:util";

const run = promisify(execFile);

/**
 * How far a SIGSTOP or SIGCONT has come. The kernel delivers it to one thread after the other, and a process answers as
 * long as one of them runs.
 */
export async function stopOf(pid: number): Promise<"all" | "some" | "none" | "gone"> {
  const states = process.platform === "linux" ? threadStates(pid) : await processState(pid);
  // Dead ones (Z, X) neither run nor stop.
  const alive = states.filter((state) => !"ZX".includes(state));
  if (alive.length === 0) return "gone";
  const stopped = alive.filter((state) => state === "T").length;
  if (stopped === alive.length) return "all";
  return stopped === 0 ? "none" : "some";
}

/** A letter for each thread, as in proc(5). */
function threadStates(pid: number): string[] {
  const stats = unlessGone(() => readdirSync(`/proc/${pid}/task`)) ?? [];
  return stats.flatMap((thread) => {
    const stat = unlessGone(() => readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8"));
    // The name before it, in parentheses, may hold anything.
    return stat === undefined ? [] : [stat.slice(stat.lastIndexOf(")") + 2).charAt(0)];
  });
}

/** Elsewhere `ps` tells of the process as a whole. */
async function processState(pid: number): Promise<string[]> {
  const { stdout } = await run("ps", ["-o", "state=", "-p", String(pid)]).catch((error: unknown) => {
    // That is how it says that there is none.
    if (error instanceof Error && "code" in error && error.code === 1) return { stdout: "" };
    throw error;
  });
  const state = stdout.trim().charAt(0);
  return state === "" ? [] : [state];
}

function unlessGone<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ESRCH"))
      return undefined;
    throw error;
  }
}
