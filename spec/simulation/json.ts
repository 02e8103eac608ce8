/**
 * JSON that is read again and again, by one store after the other, is parsed once. Nobody can change what all of them
 * have.
 */

/** What more than one simulation has: acknowledgements, settings, what all requests are made of. */
const lasting = new Map<string, unknown>();
/** What this one had, and the one before. What stayed longer would only be carried along: ids are of one simulation. */
let current = new Map<string, unknown>();
let previous = new Map<string, unknown>();

const MAX_LASTING = 8000;

export function parseOnce(text: string): unknown {
  return current.get(text) ?? lasting.get(text) ?? parsed(text);
}

function parsed(text: string): unknown {
  const before = previous.get(text);
  if (before === undefined) {
    const value: unknown = frozen(JSON.parse(text));
    current.set(text, value);
    return value;
  }
  if (lasting.size >= MAX_LASTING) lasting.clear();
  lasting.set(text, before);
  return before;
}

/** Another simulation begins. */
export function forgetOlder(): void {
  previous = current;
  current = new Map();
}

/** From the inside out. A reviver would do the same at several times the cost. */
function frozen(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  for (const inner of Object.values(value)) frozen(inner);
  return Object.freeze(value);
}
