/**
 * A process that runs the library, as far as the library can tell: with a clock, timers and random numbers of the
 * simulation. It can be stopped at any event, for any time, and it can die.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { compileFunction } from "node:vm";
import type * as library from "unibus-membership";
import type { Chance } from "./chance.js";
import type { Cancellable, Engine } from "./engine.js";
import { parseOnce } from "./json.js";
import { SimulatedHeaders } from "./messages.js";

export type Library = typeof library;

/** The wall clock at the beginning. No test goes by which day it is. */
const EPOCH = Date.UTC(2030, 0, 1);

const SETTLED = Promise.resolve();

type State = "running" | "stopped" | "dead";

/** Where the library runs. One process at a time has it: whatever it asks of its surroundings is then that one's. */
export interface Host {
  running: SimulatedProcess | undefined;
}

export class SimulatedProcess {
  readonly name: string;
  readonly engine: Engine;
  readonly chance: Chance;
  #state: State = "running";
  /** What reached it while it was stopped. */
  #held: (() => void)[] = [];
  /** Virtual time that it was stopped for, up to now. */
  #stoppedMs = 0;
  #stoppedAt = 0;
  readonly #host: Host;
  /** It has died, or goes on after it was stopped. */
  whenChanged: (() => void) | undefined;

  constructor(name: string, engine: Engine, chance: Chance, host: Host) {
    this.name = name;
    this.engine = engine;
    this.chance = chance;
    this.#host = host;
  }

  get state(): State {
    return this.#state;
  }

  /** The time that it ran. */
  get ranMs(): number {
    const now = this.#state === "stopped" ? this.engine.now - this.#stoppedAt : 0;
    return this.engine.now - this.#stoppedMs - now;
  }

  /** Runs something in the process, as Node runs a callback. */
  enter(run: () => void): void {
    // What the inner one left to do would be done, and timed, as the outer one's: it could outlive its own process.
    const { running } = this.#host;
    if (running !== undefined) throw new Error(`${this.name} runs in the middle of an event of ${running.name}`);
    this.#host.running = this;
    this.engine.enter(run);
    this.#host.running = undefined;
  }

  /** Something reaches the process: at once, when it wakes, or never. */
  deliver(run: () => void): void {
    switch (this.#state) {
      case "running":
        this.enter(run);
        return;
      case "stopped":
        this.#held.push(run);
        return;
      case "dead":
        return;
    }
  }

  after(ms: number, run: () => void): Cancellable {
    return this.engine.after(ms, run, this);
  }

  stop(): void {
    if (this.#state !== "running") return;
    this.#state = "stopped";
    this.#stoppedAt = this.engine.now;
  }

  /** What reached it meanwhile reaches it now, in order. */
  wake(): void {
    if (this.#state !== "stopped") return;
    this.#state = "running";
    this.#stoppedMs += this.engine.now - this.#stoppedAt;
    const held = this.#held.splice(0);
    for (let run = held.shift(); run !== undefined; run = held.shift()) {
      this.enter(run);
      // One of them may have stopped it again.
      if (this.state === "stopped") this.#held.unshift(...held.splice(0));
      if (this.state === "dead") return;
    }
    this.whenChanged?.();
  }

  die(): void {
    this.#state = "dead";
    this.#held = [];
    this.whenChanged?.();
  }
}

const PARAMETERS = [
  "exports",
  "require",
  "module",
  "__filename",
  "__dirname",
  "loadModule",
  "setTimeout",
  "clearTimeout",
  "setImmediate",
  "clearImmediate",
  "performance",
  "Date",
  "Math",
  "process",
  "JSON",
  "queueMicrotask",
] as const;

/**
 * Loads the library as it was built. All processes share the one instance, which keeps nothing of its own outside of
 * its stores: what was compiled for one is then fast for all. What is replaced is around it, not in it: the package has
 * no switch for any of this.
 */
export class LibraryLoader {
  readonly host: Host = { running: undefined };
  readonly library: Library;
  readonly #dist: string;
  readonly #changes: readonly { readonly from: RegExp; readonly to: string }[];

  /**
   * `dist` is the folder of the built package; each change is made at the one place that matches, to break it on
   * purpose, or to meet often what is rare.
   */
  constructor(dist: string, ...changes: readonly { readonly from: RegExp; readonly to: string }[]) {
    this.#dist = resolve(dist);
    this.#changes = changes;
    this.library = this.#load();
  }

  #load(): Library {
    const owner = (): SimulatedProcess => {
      const { running } = this.host;
      if (running === undefined) throw new Error("the library runs although no process has it");
      return running;
    };
    const globals = globalsOf(owner);
    const builtin = createRequire(join(this.#dist, "index.cjs"));
    const modules = new Map<string, { exports: unknown }>();
    const load = (path: string): unknown => {
      const known = modules.get(path);
      if (known !== undefined) return known.exports;
      const module = { exports: {} as unknown };
      modules.set(path, module);
      const require = (name: string): unknown => {
        if (name.startsWith(".")) return load(join(dirname(path), name));
        switch (name.replace(/^node:/, "")) {
          case "timers":
            return { setTimeout: globals.setTimeout, clearTimeout: globals.clearTimeout };
          case "crypto":
            return {
              ...(builtin("node:crypto") as object),
              randomBytes: (length: number) => owner().chance.bytes(length),
            };
          case "nats":
            return { headers: () => new SimulatedHeaders() };
          default:
            return builtin(name);
        }
      };
      const loadModule = (name: string): Promise<unknown> => Promise.resolve(require(name));
      this.#compile(path)(
        module.exports,
        require,
        module,
        path,
        dirname(path),
        loadModule,
        globals.setTimeout,
        globals.clearTimeout,
        globals.setImmediate,
        globals.clearImmediate,
        globals.performance,
        globals.Date,
        globals.Math,
        globals.process,
        globals.JSON,
        globals.queueMicrotask,
      );
      return module.exports;
    };
    return load(join(this.#dist, "index.cjs")) as Library;
  }

  #compile(path: string): (...args: unknown[]) => void {
    // A dynamic import would leave the simulation's time.
    let code = readFileSync(path, "utf8").replaceAll(/\bimport\(/g, "loadModule(");
    for (const { from, to } of path.endsWith("index.cjs") ? this.#changes : []) {
      if (code.split(from).length !== 2) throw new Error(`the built library does not have this once: ${from.source}`);
      code = code.replace(from, () => to);
    }
    return compileFunction(code, [...PARAMETERS], { filename: path }) as (...args: unknown[]) => void;
  }
}

/** What a timer is to the library: it holds no event loop. */
class Timer {
  readonly event: Cancellable;

  constructor(event: Cancellable) {
    this.event = event;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }
}

function globalsOf(owner: () => SimulatedProcess) {
  const clear = (timer: Timer | undefined): void => timer?.event.cancel();
  const wallClock = (): number => wallClockAt(owner().engine.now);
  // A date without arguments is of the simulation's time. Dates are otherwise Node's own.
  const SimulatedDate = function (...args: unknown[]) {
    return args.length === 0 ? new Date(wallClock()) : (Reflect.construct(Date, args) as Date);
  };
  SimulatedDate.prototype = Date.prototype;
  return {
    // As Node does: at least a millisecond.
    setTimeout: (run: () => void, ms = 1) => new Timer(owner().after(Math.max(1, ms), run)),
    clearTimeout: clear,
    setImmediate: (run: () => void) => new Timer(owner().after(0, run)),
    clearImmediate: clear,
    performance: { now: () => owner().engine.now },
    Date: Object.assign(SimulatedDate, { now: wallClock, parse: Date.parse, UTC: Date.UTC }),
    Math: Object.defineProperties(
      {},
      { ...Object.getOwnPropertyDescriptors(Math), random: { value: () => owner().chance.next() } },
    ),
    process: Object.create(process, {
      nextTick: {
        value: (run: (...args: unknown[]) => void, ...args: unknown[]) => {
          owner().engine.nextTick(() => run(...args));
        },
      },
    }) as NodeJS.Process,
    // Node's own makes an asynchronous resource of each.
    queueMicrotask: (run: () => void) => void SETTLED.then(run),
    JSON: { stringify: JSON.stringify, parse: parseOnce },
  };
}

export const wallClockAt = (now: number): number => EPOCH + Math.floor(now);
