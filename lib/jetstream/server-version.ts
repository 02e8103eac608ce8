export function isVersion(version: string): boolean {
  return /^v?\d+\.\d+\.\d+/.test(version);
}

/** Whether a server's version is at least `major.minor.patch`. An unknown one is not. */
export function atLeast(version: string | undefined, major: number, minor: number, patch = 0): boolean {
  const match = /^v?(\d+)\.(\d+)\.(\d+)/.exec(version ?? "");
  if (match === null) return false;
  const wanted = [major, minor, patch];
  for (const [i, least] of wanted.entries()) {
    const found = Number(match[i + 1]);
    if (found !== least) return found > least;
  }
  return true;
}
