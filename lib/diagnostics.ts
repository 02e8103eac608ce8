/**
 * What is told to whoever listens, over channels of `node:diagnostics_channel`. While nobody does, it costs a look. No
 * message has a sealed key: none has a record, or what a call was given.
 */
import { channel } from "node:diagnostics_channel";
import type { StoreError, StoreErrorCode } from "./errors.js";
import { isStoreError } from "./errors.js";
import type { Decision, Proof } from "./store.js";

/** Of the tracing channel `unibus-membership:operation`. One object goes through all of its channels. */
export interface OperationMessage {
  /** As `rooms.create`. */
  readonly operation: string;
  readonly backend: string;
  /** Once it has ended. */
  durationMs?: number;
  /** Of one that was refused, or failed. */
  error?: unknown;
  code?: StoreErrorCode;
  outcome?: "none" | "unknown";
}

/** Of the channel `unibus-membership:decision`: each check, and each session that is asked for. */
export interface DecisionMessage {
  readonly check: "authorize" | "isAuthorized" | "isAdmin" | "isMember" | "hasAdmin" | "session";
  readonly backend: string;
  /** As it was asked for, folded. Nothing that was malformed is told. */
  readonly key?: string | undefined;
  readonly roomId?: string | undefined;
  readonly endpoint?: string | undefined;
  readonly allowed: boolean;
  /** Of a check that is about no user, `notMember` and `notAdmin` are the denials that were proved. */
  readonly reason: Decision["reason"];
  readonly proof?: Proof | undefined;
  readonly durationMs: number;
  readonly error?: unknown;
}

/** Of the channel `unibus-membership:event`: what no call is told. */
export type EventMessage =
  | {
      readonly type: "checkpoint";
      readonly backend: "sqlite";
      readonly ok: boolean;
      readonly bytes: number;
      readonly durationMs: number;
      readonly error?: StoreError;
    }
  | {
      readonly type: "rollout";
      readonly backend: "jetstream";
      readonly bucket: string;
      readonly replicas: number;
      readonly current: number;
      readonly done: boolean;
    }
  /** Watches are told everything anew. */
  | { readonly type: "resync"; readonly backend: string }
  /** Settings of a bucket are such that the store is refused. */
  | { readonly type: "drift"; readonly backend: "jetstream"; readonly bucket: string; readonly error: StoreError }
  /** Leftovers of attempts that died were removed. */
  | { readonly type: "sweep"; readonly backend: "jetstream"; readonly roomId: string; readonly removed: number }
  /** A call has tried so often, and goes on. */
  | { readonly type: "retries"; readonly backend: "jetstream"; readonly attempts: number; readonly error?: unknown };

/** The channels that `tracingChannel` makes of this name. */
const of = (event: string): ReturnType<typeof channel> => channel(`tracing:unibus-membership:operation:${event}`);
const operation = {
  start: of("start"),
  end: of("end"),
  asyncStart: of("asyncStart"),
  asyncEnd: of("asyncEnd"),
  error: of("error"),
};

export const decisions = channel("unibus-membership:decision");
export const events = channel("unibus-membership:event");

const isTraced = (): boolean =>
  operation.start.hasSubscribers ||
  operation.asyncEnd.hasSubscribers ||
  operation.end.hasSubscribers ||
  operation.asyncStart.hasSubscribers ||
  operation.error.hasSubscribers;

/** Runs an operation, which does not throw. What it resolves with is told to nobody. */
export function traced<T>(name: string | undefined, backend: string, run: () => Promise<T>): Promise<T> {
  if (name === undefined || !isTraced()) return run();
  const message: OperationMessage = { operation: name, backend };
  const began = performance.now();
  const over = (): void => {
    message.durationMs = performance.now() - began;
  };
  const ended = (): void => {
    operation.asyncStart.publish(message);
    operation.asyncEnd.publish(message);
  };
  return operation.start.runStores(message, () => {
    const running = run();
    operation.end.publish(message);
    return running.then(
      (value) => {
        over();
        ended();
        return value;
      },
      (error: unknown) => {
        over();
        message.error = error;
        if (isStoreError(error)) {
          message.code = error.code;
          if (error.outcome !== undefined) message.outcome = error.outcome;
        }
        operation.error.publish(message);
        ended();
        throw error;
      },
    );
  });
}

/** Tells of an event, if anybody listens. */
export function tell(event: EventMessage): void {
  if (events.hasSubscribers) events.publish(event);
}
