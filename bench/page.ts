// docs/benchmarks.md and its plots, out of the figures of one run and nothing else: `npm run docs:check` makes them
// anew, and refuses a page with a figure that was not measured.

import type { Figures, Group, Percentiles, Series } from "./figures.js";
import { svg, type Line } from "./plot.js";

export const PAGE = "docs/benchmarks.md";
export const FIGURES = "docs/benchmarks/figures.json";
export const COMMAND = "npm --prefix bench start";
export const CALLERS = [1, 8, 64, 256, 1024] as const;

const count = (value: number): string => Math.round(value).toLocaleString("en-US");
/** Three digits, whatever the unit. */
const digits = (value: number): string => (value >= 1000 ? count(value) : String(Number(value.toPrecision(3))));

interface Peer {
  /** What the names of its calls begin with. */
  readonly name: string;
  readonly where: string;
  readonly acknowledged: string;
  readonly check: string;
}

const PEERS: Readonly<Record<Group["name"], readonly Peer[]>> = {
  process: [
    {
      name: "SQLite backend",
      where: "in the process that owns the file",
      acknowledged: "synced to the disk",
      check: "Out of memory, as of every acknowledged change. Denies when the store is closed or its disk has failed.",
    },
    {
      name: "better-sqlite3",
      where: "in the process; others may have the file open too",
      acknowledged: "synced to the disk (WAL, `synchronous = FULL`)",
      check: "A row, as of every commit. The call holds the event loop until it is done, a write until the disk is.",
    },
    { name: "node:sqlite", where: "the same", acknowledged: "the same", check: "The same." },
    {
      name: "casbin",
      where: "in the process",
      acknowledged: "in memory only: an adapter would keep it",
      check:
        "Whatever policy you write (here a role). Out of what this process has loaded: it learns of another one's change when a watcher tells it. Nothing expires, no call has a deadline.",
    },
    {
      name: "SpiceDB embedded",
      where: "in the process, as a library in Go, with its datastore in memory",
      acknowledged: "in memory only: another datastore would keep it",
      check:
        "Whatever relations you define (here a grant for each user), fully consistent. All of SpiceDB answers, not a look into a table; another datastore takes another time.",
    },
  ],
  cluster: [
    {
      name: "JetStream backend",
      where: "three servers, three replicas",
      acknowledged:
        "a majority of the servers has it. They sync to their disks every two minutes, or before that where `sync_interval: always` is said",
      check:
        "A `true` is proved by a majority, after the check began. With `maxStalenessMs` it is out of memory, and as old as that at most.",
    },
    {
      name: "NATS KV",
      where: "the same servers, over the same connection",
      acknowledged: "the same",
      check: "What one replica has. It may be old, and it may be cut off: nothing is proved.",
    },
    {
      name: "etcd",
      where: "three servers",
      acknowledged: "a majority has synced it to its disks",
      check: "Linearizable: as fresh as a check of ours. What a user is, is left to you.",
    },
  ],
};

const TITLES: Readonly<Record<Group["name"], string>> = { process: "In one process", cluster: "Over a cluster" };
const KINDS = { check: "Checks", write: "Writes" } as const;

const table = (head: readonly string[], rows: readonly (readonly string[])[], rule = "---:"): string =>
  [head, head.map((_, i) => (i === 0 ? "---" : rule)), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");

const rateAt = (series: Series, callers: number): number | undefined =>
  series.rates.find((rate) => rate.callers === callers)?.perSecond ??
  (series.isOneByOne ? series.rates[0]?.perSecond : undefined);

/** A file of the page: a plot, and the line that shows it. */
interface Figure {
  readonly path: string;
  readonly text: string;
  readonly shown: string;
}

function figure(name: string, title: string, plot: Omit<Parameters<typeof svg>[0], "title">): Figure {
  const file = `benchmarks/${name}.svg`;
  return { path: `docs/${file}`, text: svg({ title, ...plot }), shown: `![${title}](${file})` };
}

function rates(group: Group, kind: Series["kind"]): [string, Figure] {
  const of = group.series.filter((series) => series.kind === kind);
  const best = (series: Series): number => Math.max(...series.rates.map(({ perSecond }) => perSecond));
  const rows = of.map((series) => [
    series.name,
    ...CALLERS.map((callers) => rateAt(series, callers)).map((rate) => (rate === undefined ? "" : count(rate))),
    ...of.slice(0, 1).map((first) => `${digits(best(series) / best(first))}x`),
  ]);
  const lines = of.map(({ name, ...series }) => ({
    name,
    values: CALLERS.map((callers) => rateAt({ name, ...series }, callers)),
  }));
  const title = `${TITLES[group.name]}: ${KINDS[kind].toLowerCase()} a second`;
  return [
    table(["calls a second, by callers in flight", ...CALLERS.map(count), "the best, times the first row's"], rows),
    figure(`${group.name}-${kind}-rates`, title, {
      xAxis: "callers in flight",
      places: CALLERS.map(count),
      yAxis: "calls a second",
      lines,
    }),
  ];
}

const PARTS = ["p50", "p90", "p99", "p999"] as const;
/** Of fewer calls the part would be one call's time, or none. */
const ENOUGH = { p50: 2, p90: 20, p99: 200, p999: 2000 } as const;
const PART_NAMES = ["p50", "p90", "p99", "p99.9"];

function distribution(group: Group, kind: Series["kind"], when: "alone" | "busy"): [string, Figure] | undefined {
  const of = group.series.flatMap((series): { name: string; found: Percentiles }[] => {
    const found = series[when];
    return series.kind === kind && found !== undefined ? [{ name: series.name, found }] : [];
  });
  if (of.length === 0) return undefined;
  const head = when === "alone" ? "milliseconds, one call after the other" : "milliseconds, with 64 callers in flight";
  const isTold = (part: (typeof PARTS)[number], { calls }: Percentiles): boolean => calls >= ENOUGH[part];
  const rows = of.map(({ name, found }) => [
    name,
    ...PARTS.map((part) => (isTold(part, found) ? digits(found[part]) : "")),
    count(found.calls),
  ]);
  const lines: Line[] = of.map(({ name, found }) => ({
    name,
    values: PARTS.map((part) => (isTold(part, found) ? found[part] : undefined)),
  }));
  const title = `${TITLES[group.name]}: ${KINDS[kind].toLowerCase()}, ${when === "alone" ? "one by one" : "64 in flight"}`;
  return [
    table([head, ...PART_NAMES, "calls"], rows),
    figure(`${group.name}-${kind}-${when}`, title, {
      xAxis: "part of the calls that took no longer",
      places: PART_NAMES,
      yAxis: "milliseconds",
      lines,
    }),
  ];
}

function costs(group: Group, sizes: readonly number[]): [string, Figure] {
  const of = (series: Series): (number | undefined)[] =>
    sizes.map((size) => series.cost.find(({ records }) => records === size)?.microseconds);
  const filled = group.series.filter(({ cost }) => cost.length > 0);
  const rows = filled.map((series) => [
    series.name,
    ...of(series).map((cost) => (cost === undefined ? "" : digits(cost))),
  ]);
  const title = `${TITLES[group.name]}: what a call alone costs`;
  return [
    table(["microseconds of a call alone, by records", ...sizes.map(count)], rows),
    figure(`${group.name}-records`, title, {
      xAxis: "records",
      places: sizes.map(count),
      yAxis: "microseconds",
      lines: filled.map((series) => ({ name: series.name, values: of(series) })),
    }),
  ];
}

function standstill({ standstill: found, sizes }: Figures): [string, Figure] {
  const names = found[0]?.of.map(({ name }) => name) ?? [];
  const of = (name: string): (number | undefined)[] =>
    found.map((each) => each.of.find((one) => one.name === name)?.ms);
  return [
    table(
      ["milliseconds that the event loop stands still, by records", ...sizes.map(count)],
      names.map((name) => [name, ...of(name).map((ms) => (ms === undefined ? "" : digits(ms)))]),
    ),
    figure("standstill", "A checkpoint: how long nothing else goes on", {
      xAxis: "records",
      places: sizes.map(count),
      yAxis: "milliseconds",
      lines: names.map((name) => ({ name, values: of(name) })),
    }),
  ];
}

function head(figures: Figures): string[] {
  const { isQuick, date, tookSeconds, rounds, sizes } = figures;
  return [
    "# Benchmarks",
    `Written by \`${COMMAND}\` on ${date}, in ${count(tookSeconds)} s, out of [what it measured](benchmarks/figures.json). \`npm run docs:check\` refuses a page that says anything else: change \`bench/\`, not this file. How to run it is in [bench/README.md](../bench/README.md).`,
    ...(isQuick
      ? [
          "**This was a quick run (`BENCH_QUICK=1`), to try the bench itself. Its figures are worth nothing: do not compare them.**",
        ]
      : []),
    `Everybody had turns in the same run. Rates and costs are medians of rounds (${rounds}, and one before them that is not counted); the parts of a distribution are of all calls of all rounds. Look at what lies side by side, not at a figure alone: servers and clients shared the processors and the disk of one machine. Each peer is asked by its client for Node, whose time is in the figure. Callers of whom each would wait two seconds for an answer were left out: a blank. There were ${count(sizes.at(-1) ?? 0)} users where nothing else is said; servers with \`sync_interval: always\` had none but those that were written in the run.`,
    "## The machine",
    figures.machine.map((line) => `- ${line}`).join("\n"),
    table(
      ["what", "version"],
      figures.versions.map(({ name, version }) => [name, version]),
      "---",
    ),
    "## Who takes part, and what each promises",
    `What is asked is the same: may this key come in? What the answer is worth is not. SQLite and JetStream backend are this library. They do more for a write than the others: rules, a revision, a last admin who stays. Of the SQLite backend, callers that wait together share one write to the disk: a caller alone gains nothing by that.`,
    ...(["process", "cluster"] as const).flatMap((name) => [
      table(
        ["who", "where", "an acknowledged write is", "a check is"],
        PEERS[name].map((peer) => [peer.name, peer.where, peer.acknowledged, peer.check]),
        "---",
      ),
    ]),
    ...(figures.missing.length === 0
      ? []
      : [`Not here: ${figures.missing.map(({ name, why }) => `${name} (${why})`).join("; ")}.`]),
  ];
}

/** The page and its plots, by path. */
export function pageOf(figures: Figures): ReadonlyMap<string, string> {
  const plots: Figure[] = [];
  const parts = head(figures);
  const add = ([text, plot]: [string, Figure]): void => {
    parts.push(text, plot.shown);
    plots.push(plot);
  };
  for (const group of figures.groups) {
    parts.push(`## ${TITLES[group.name]}`);
    for (const kind of ["check", "write"] as const) {
      parts.push(`### ${TITLES[group.name]}: ${KINDS[kind].toLowerCase()}`);
      if (group.series.some((series) => series.kind === kind && series.isOneByOne))
        parts.push("A call that holds the event loop until it is done has one rate, however many wait for it.");
      add(rates(group, kind));
      for (const when of ["alone", "busy"] as const) {
        const found = distribution(group, kind, when);
        if (found !== undefined) add(found);
      }
    }
    parts.push(`### ${TITLES[group.name]}: beside more records`);
    add(costs(group, figures.sizes));
  }
  parts.push(
    "## Standstill",
    "A checkpoint brings a log into the file. The SQLite backend writes the whole file anew, in a thread of its own; the others bring 5,000 new rows into theirs, and hold the event loop meanwhile. `sql.js, export` is what that would be without the thread.",
  );
  add(standstill(figures));
  return new Map([[PAGE, `${parts.join("\n\n")}\n`], ...plots.map(({ path, text }) => [path, text] as const)]);
}
