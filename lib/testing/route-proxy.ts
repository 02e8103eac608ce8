import { createServer, connect, type AddressInfo, type Server, type Socket } from "node:net";

/**
 * How a route is cut: `reset` closes connections and refuses new ones, as a dead process does; `blackhole` keeps them
 * open and drops every byte; `stall` holds the bytes back and delivers them late, as a network that heals does.
 */
export type CutMode = "reset" | "blackhole" | "stall";

/** A TCP proxy for one direction in which a route is dialled; what flows through it goes both ways. */
export class RouteProxy {
  readonly #target: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #cut: CutMode | undefined;
  #delayMs = 0;

  private constructor(target: number) {
    this.#target = target;
    // Half open would let one end talk on after the other has left.
    this.#server = createServer({ allowHalfOpen: false }, (socket) => this.#accept(socket));
    this.#server.unref();
  }

  static async listen(target: number): Promise<RouteProxy> {
    const proxy = new RouteProxy(target);
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once("error", reject).listen(0, "127.0.0.1", resolve);
    });
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get isCut(): boolean {
    return this.#cut !== undefined;
  }

  cut(mode: CutMode): void {
    if (this.#cut === mode) return;
    // Whatever the earlier cut kept open has lost bytes, or would be mixed with what this one loses.
    if (this.#cut !== undefined) this.heal();
    this.#cut = mode;
    if (mode === "reset") this.#drop();
    if (mode === "stall") for (const socket of this.#sockets) socket.pause();
  }

  heal(): void {
    const mode = this.#cut;
    this.#cut = undefined;
    if (mode === "stall") for (const socket of this.#sockets) socket.resume();
    // A stream that lost bytes in its middle is no longer a stream of the protocol.
    else if (mode !== undefined) this.#drop();
  }

  delay(ms: number): void {
    this.#delayMs = ms;
  }

  close(): void {
    this.#drop();
    this.#server.close();
  }

  #drop(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  #accept(near: Socket): void {
    if (this.#cut === "reset") {
      near.on("error", ignore).resetAndDestroy();
      return;
    }
    const far = connect(this.#target, "127.0.0.1");
    this.#join(near, far);
    this.#join(far, near);
  }

  #join(from: Socket, to: Socket): void {
    this.#sockets.add(from);
    from.unref();
    from.setNoDelay(true);
    from.on("error", ignore);
    from.on("close", () => {
      this.#sockets.delete(from);
      to.destroy();
    });

    const late: { due: number; bytes: Buffer }[] = [];
    const deliver = (): void => {
      const now = performance.now();
      while (late[0] !== undefined && late[0].due <= now) {
        const { bytes } = late[0];
        late.shift();
        if (this.#cut !== "blackhole" && !to.destroyed) to.write(bytes);
      }
      if (late[0] !== undefined) setTimeout(deliver, late[0].due - now).unref();
    };

    from.on("data", (bytes: Buffer) => {
      if (this.#cut === "blackhole") return;
      if (this.#delayMs === 0 && late.length === 0) {
        if (!to.write(bytes)) this.#waitForDrain(from, to);
        return;
      }
      // Never earlier than what went before it, also when the delay has just been shortened.
      late.push({ due: Math.max(late.at(-1)?.due ?? 0, performance.now() + this.#delayMs), bytes });
      if (late.length === 1) setTimeout(deliver, this.#delayMs).unref();
    });
    if (this.#cut === "stall") from.pause();
  }

  #waitForDrain(from: Socket, to: Socket): void {
    from.pause();
    to.once("drain", () => {
      if (this.#cut !== "stall") from.resume();
    });
  }
}

function ignore(): void {
  // The other end's going away is what a proxy in a fault test is for; "close" follows and is handled.
}
