/** JSON that is read again and again, by one store after the other, is parsed once. Nobody can change what all of them have. */

const known = new Map<string, unknown>();

/** Those of a few simulations, and the acknowledgements, which are nearly the same in all of them. */
const MAX_KNOWN = 8000;

export function parseOnce(text: string): unknown {
  const found = known.get(text);
  if (found !== undefined) return found;
  const parsed: unknown = frozen(JSON.parse(text));
  if (known.size >= MAX_KNOWN) known.clear();
  known.set(text, parsed);
  return parsed;
}

/** From the inside out. A reviver would do the same at several times the cost. */
function frozen(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  for (const inner of Object.values(value)) frozen(inner);
  return Object.freeze(value);
}
