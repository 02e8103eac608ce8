// Lines as SVG, small enough to be committed.

export interface Line {
  readonly name: string;
  /** One for each place on the x axis; `undefined`: there is none. */
  readonly values: readonly (number | undefined)[];
}

export interface Plot {
  readonly title: string;
  readonly xAxis: string;
  readonly places: readonly string[];
  readonly yAxis: string;
  readonly lines: readonly Line[];
}

const [WIDTH, LEFT, RIGHT, TOP, HEIGHT, LEGEND] = [720, 70, 20, 52, 260, 18];
const COLOURS = [
  "#1b5e9e",
  "#b03a2e",
  "#2e7d32",
  "#8e5ea2",
  "#c77c11",
  "#00838f",
  "#555555",
  "#ad1457",
  "#7cb342",
  "#6d4c41",
  "#5c6bc0",
  "#212121",
];

const shown = (value: number): string => String(Math.round(value * 10) / 10);
/** Longer names than that do not stand two in a row. */
const SHORT = 40;
const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** 0.01, 0.1, 1, 10, 1k, 10k, 1M */
function tick(power: number): string {
  if (power >= 6) return `${10 ** (power - 6)}M`;
  return power >= 3 ? `${10 ** (power - 3)}k` : String(Number((10 ** power).toPrecision(1)));
}

/** The y axis is logarithmic: what is set side by side here lies that far apart. */
export function svg({ title, xAxis, places, yAxis, lines }: Plot): string {
  const all = lines.flatMap(({ values }) => values.filter((value) => value !== undefined && value > 0)) as number[];
  const low = Math.floor(Math.log10(Math.min(...all)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...all))));
  const columns = lines.some(({ name }) => name.length > SHORT) ? 1 : 2;
  const floor = TOP + HEIGHT;
  const x = (place: number): number =>
    LEFT + 30 + ((WIDTH - LEFT - RIGHT - 60) * place) / Math.max(1, places.length - 1);
  const y = (value: number): number => floor - (HEIGHT * (Math.log10(value) - low)) / (high - low);
  const grid = Array.from({ length: high - low + 1 }, (_, i) => low + i).map(
    (power) =>
      `<path d="M${LEFT} ${shown(y(10 ** power))}H${WIDTH - RIGHT}" stroke="#ddd"/><text x="${LEFT - 6}" y="${shown(y(10 ** power) + 4)}" text-anchor="end">${tick(power)}</text>`,
  );
  const labels = places.map(
    (place, i) => `<text x="${shown(x(i))}" y="${floor + 16}" text-anchor="middle">${escaped(place)}</text>`,
  );
  const drawn = lines.map(({ name, values }, i) => {
    const colour = COLOURS[i % COLOURS.length] ?? "";
    const points = values.flatMap((value, place) =>
      value === undefined || value <= 0 ? [] : [`${shown(x(place))} ${shown(y(value))}`],
    );
    const [legendX, legendY] = [LEFT + (i % columns) * 320, floor + 58 + Math.floor(i / columns) * LEGEND];
    return [
      `<path d="M${points.join("L")}" fill="none" stroke="${colour}" stroke-width="2"/>`,
      ...points.map((point) => {
        const [cx = "", cy = ""] = point.split(" ");
        return `<circle cx="${cx}" cy="${cy}" r="3" fill="${colour}"/>`;
      }),
      `<path d="M${legendX} ${legendY - 4}h18" stroke="${colour}" stroke-width="3"/><text x="${legendX + 24}" y="${legendY}">${escaped(name)}</text>`,
    ].join("\n");
  });
  const height = floor + 58 + Math.ceil(lines.length / columns) * LEGEND;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12" fill="#333">
<rect width="100%" height="100%" fill="#fff"/>
<text x="${LEFT}" y="20" font-size="14" font-weight="bold">${escaped(title)}</text>
<text x="${LEFT}" y="38">${escaped(yAxis)}</text>
${grid.join("\n")}
${labels.join("\n")}
<text x="${(WIDTH + LEFT) / 2}" y="${floor + 34}" text-anchor="middle">${escaped(xAxis)}</text>
${drawn.join("\n")}
</svg>
`;
}
