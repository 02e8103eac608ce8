import type { Connection } from "../../support/nats-clients.js";
import { tapped, type Request, type RequestMany, type Tap } from "./taps.js";

export interface Stoppable {
  readonly connection: Connection;
  /** Resolves when the store says something for which `isLast` holds. That waits, and all that comes after it. */
  stopAt(isLast: (...asked: Parameters<Request>) => boolean): Promise<void>;
  goOn(): void;
}

/** A connection whose store can be stopped as a process is: what it says then is sent when it goes on, however late. */
export function stoppable(inner: Connection): Stoppable {
  let isLast: (...asked: Parameters<Request>) => boolean = () => false;
  let stop: () => void = () => undefined;
  let goOn: () => void = () => undefined;
  let stopped: Promise<void> | undefined;
  const turn = async (...asked: Parameters<Request>): Promise<void> => {
    if (stopped === undefined && isLast(...asked)) {
      stopped = new Promise((resolve) => {
        goOn = resolve;
      });
      stop();
    }
    await stopped;
  };
  const request: Tap = async (send, ...asked) => {
    await turn(...asked);
    return send(...asked);
  };
  const requestMany: RequestMany = async (...asked) => {
    await turn(asked[0], asked[1]);
    return inner.requestMany(...asked);
  };
  return {
    connection: tapped(inner, { request, requestMany }),
    stopAt: (last) =>
      new Promise((resolve) => {
        isLast = last;
        stop = resolve;
      }),
    goOn: () => {
      isLast = () => false;
      stopped = undefined;
      goOn();
    },
  };
}
