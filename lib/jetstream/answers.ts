/** Whether an answer of several messages is all of it. */
import type { DirectMessage } from "./client.js";

// A client that reconnects in the middle of an answer misses what was sent to the connection before, and gets the end.

/**
 * Whether no message is missing, by the first one alone: it says how many follow. There is one at least, the barrier.
 */
export function complete({ messages }: { messages: readonly DirectMessage<never>[] }): boolean {
  const [first] = messages;
  return first !== undefined && first.before === 0 && first.following === messages.length - 1;
}

/** The same, by all: each names the one before it, and the end names the last. */
export function whole({ messages, last }: { messages: readonly DirectMessage<never>[]; last: number }): boolean {
  let before = 0;
  for (const message of messages) {
    if (message.before !== before) return false;
    before = message.seq;
  }
  return last === before;
}
