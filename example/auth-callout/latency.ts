/**
 * `npm run auth-callout:latency`: how long it takes from the acknowledgement of a revocation until the connection is
 * closed, on three servers, and draws it as latency.svg. `-- --users 1000` revokes so many for each bound.
 */
import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { Stage, medianAndLongest, newPerson } from "./stage.js";

const BOUNDS_MS = [1000, 5000];
/** Users who come and go side by side. */
const LANES = 8;
const BINS = 50;

const { values } = parseArgs({ options: { users: { type: "string", default: "400" } } });

async function measure(stalenessMs: number): Promise<number[]> {
  await using stage = new Stage();
  stage.endOnSignals();
  await stage.startServers(3);
  await stage.startService(300, stalenessMs);
  const people = Array.from({ length: Number(values.users) }, (_, i) => newPerson(`user ${i}`));
  const times: number[] = [];
  const lane = async (): Promise<void> => {
    for (let person = people.pop(); person !== undefined; person = people.pop())
      times.push(await stage.revokedToDisconnected(person, stalenessMs));
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  return times;
}

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [720, 214, 44, 24, 58, 40];
const round = (value: number): string => String(Math.round(value * 10) / 10);

/** A histogram from 0 to the bound, with the median and the longest. */
function panel(times: readonly number[], boundMs: number, offset: number): string {
  const x = (time: number): number => LEFT + ((WIDTH - LEFT - RIGHT) * time) / boundMs;
  const bins = Array.from({ length: BINS }, () => 0);
  for (const time of times) {
    const bin = Math.max(0, Math.min(BINS - 1, Math.floor((time / boundMs) * BINS)));
    bins[bin] = (bins[bin] ?? 0) + 1;
  }
  const most = Math.max(...bins);
  const floor = HEIGHT - BOTTOM;
  const bars = bins.map((count, i) => {
    const height = ((floor - TOP) * count) / most;
    const [left, right] = [x((i * boundMs) / BINS), x(((i + 1) * boundMs) / BINS)];
    return `<rect x="${round(left + 0.5)}" y="${round(floor - height)}" width="${round(right - left - 1)}" height="${round(height)}" fill="#4878a8"/>`;
  });
  const { median, longest } = medianAndLongest(times);
  const mark = (time: number, name: string, y: number): string =>
    `<path d="M${round(x(time))} ${y + 4}V${floor}" stroke="#b03a2e" stroke-dasharray="3 3"/><text x="${round(x(time) + 4)}" y="${y + 12}" fill="#b03a2e">${name} ${Math.round(time)} ms</text>`;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map(
    (part) =>
      `<text x="${round(x(part * boundMs))}" y="${floor + 16}" text-anchor="middle">${round(part * boundMs)}</text>`,
  );
  return `<g transform="translate(0 ${offset})">
<text x="${LEFT}" y="18" font-weight="bold">maxStalenessMs: ${boundMs}, ${times.length} users revoked</text>
${bars.filter((_, i) => bins[i] !== 0).join("\n")}
<path d="M${LEFT} ${floor}H${WIDTH - RIGHT}" stroke="#333"/>
<text x="${LEFT - 6}" y="${TOP + 8}" text-anchor="end">${most}</text>
${ticks.join("\n")}
<text x="${(WIDTH + LEFT) / 2}" y="${floor + 32}" text-anchor="middle">milliseconds from the acknowledgement to the closed connection, up to the bound</text>
${mark(median, "median", TOP - 34)}
${mark(longest, "longest", TOP - 20)}
</g>`;
}

const panels: string[] = [];
for (const [i, boundMs] of BOUNDS_MS.entries()) {
  const times = await measure(boundMs);
  const { median, longest } = medianAndLongest(times);
  console.log(
    `maxStalenessMs ${boundMs}: ${times.length} revoked; to the closed connection median ${Math.round(median)} ms, longest ${Math.round(longest)} ms`,
  );
  panels.push(panel(times, boundMs, i * HEIGHT));
}
await writeFile(
  new URL("latency.svg", import.meta.url),
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT * panels.length}" font-family="sans-serif" font-size="12" fill="#333">
<rect width="100%" height="100%" fill="#fff"/>
${panels.join("\n")}
</svg>
`,
);
