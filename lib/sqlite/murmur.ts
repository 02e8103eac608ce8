/** MurmurHash3, the one of 32 bits: weaker ones let keys meet that differ in a running number. */

export function mixed(hash: number, four: number): number {
  const scaled = Math.imul(four, 0xcc9e2d51);
  const bits = hash ^ Math.imul((scaled << 15) | (scaled >>> 17), 0x1b873593);
  return (Math.imul((bits << 13) | (bits >>> 19), 5) + 0xe6546b64) | 0;
}

export function finished(hash: number, length: number): number {
  let bits = hash ^ length;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return bits ^ (bits >>> 16);
}

export function hashOf(bytes: DataView, at: number, length: number, seed: number): number {
  const end = at + length;
  let hash = seed;
  let next = at;
  for (; next + 4 <= end; next += 4) hash = mixed(hash, bytes.getInt32(next, true));
  if (next < end) {
    let rest = 0;
    for (let i = end - 1; i >= next; i--) rest = (rest << 8) | bytes.getUint8(i);
    hash = mixed(hash, rest);
  }
  return finished(hash, length);
}
