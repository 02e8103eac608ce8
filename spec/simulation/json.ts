/** JSON that is read again and again, by one store after the other, is parsed once. Nobody can change what all of them have. */

const known = new Map<string, unknown>();

/** Those of a few simulations. */
const MAX_KNOWN = 4000;

export function parseOnce(text: string): unknown {
  const found = known.get(text);
  if (found !== undefined) return found;
  const parsed: unknown = JSON.parse(text, frozen);
  if (known.size >= MAX_KNOWN) known.clear();
  known.set(text, parsed);
  return parsed;
}

const frozen = (_: string, value: unknown): unknown =>
  typeof value === "object" && value !== null ? Object.freeze(value) : value;
