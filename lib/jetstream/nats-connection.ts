/**
 * What the library calls on a NATS client's connection, by shape: the classes of `nats` 2.x and of `@nats-io/*` 3.x
 * share no prototypes.
 */

/** The part of a message's headers that is read here. */
export interface NatsHeaders {
  get(name: string): string;
  set(name: string, value: string): void;
  readonly code: number;
  readonly description: string;
}

export interface NatsMessage {
  readonly data: Uint8Array;
  readonly headers?: NatsHeaders;
}

export interface NatsSubscription {
  unsubscribe(): void;
  readonly closed?: Promise<unknown>;
}

/**
 * What is called on a NATS connection. A connection of `nats` 2.29 and one of `@nats-io/transport-node` 3.x are both
 * assignable. With `publish` and `subscribe` a store answers its own requests, which takes a fifth of the client's
 * processor time; one that hands through `request` alone works as well. Whoever wraps a connection and hands through
 * those two hands through `status` and `options` too: docs/operations.md says what is missing otherwise.
 */
export interface NatsConnection {
  readonly info?: {
    readonly version: string;
    readonly jetstream?: boolean;
    readonly server_name?: string;
    readonly cluster?: string;
  };
  request(
    subject: string,
    payload?: Uint8Array | string,
    options?: { timeout: number; headers?: NatsHeaders },
  ): Promise<NatsMessage>;
  requestMany(
    subject: string,
    payload?: Uint8Array | string,
    options?: { strategy?: string; maxWait?: number; headers?: NatsHeaders },
  ): Promise<AsyncIterable<NatsMessage>>;
  publish?(subject: string, payload?: Uint8Array | string, options?: { reply?: string; headers?: NatsHeaders }): void;
  subscribe?(
    subject: string,
    options: { callback: (error: Error | null, message: NatsMessage & { readonly subject: string }) => void },
  ): NatsSubscription;
  /** What may not be published is told here alone. Without it such a call ends when its time is over. */
  status?(): AsyncIterable<unknown>;
  isClosed(): boolean;
  isDraining(): boolean;
}
