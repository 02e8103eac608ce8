/**
 * A process that runs the library, as far as the library can tell: with a clock, timers and random numbers of the simulation. It can
 * be stopped at any event, for any time, and it can die.
 */
import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { compileFunction } from "node:vm";
import type * as library from "unibus-membership";
import type { Chance } from "./chance.js";
import type { Cancellable, Engine } from "./engine.js";
import { SimulatedHeaders } from "./messages.js";

export type Library = typeof library;

/** The wall clock at the beginning. No test goes by which day it is. */
const EPOCH = Date.UTC(2030, 0, 1);

type State = "running" | "stopped" | "dead";

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

  constructor(name: string, engine: Engine, chance: Chance) {
    this.name = name;
    this.engine = engine;
    this.chance = chance;
  }

  get state(): State {
    return this.#state;
  }

  /** The time that it ran. */
  get ranMs(): number {
    const now = this.#state === "stopped" ? this.engine.now - this.#stoppedAt : 0;
    return this.engine.now - this.#stoppedMs - now;
  }

  /** Something reaches the process: at once, when it wakes, or never. */
  deliver(run: () => void): void {
    switch (this.#state) {
      case "running":
        run();
        return;
      case "stopped":
        this.#held.push(run);
        return;
      case "dead":
        return;
    }
  }

  after(ms: number, run: () => void): Cancellable {
    return this.engine.after(ms, () => {
      this.deliver(run);
    });
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
      this.engine.enter(run);
      // One of them may have stopped it again.
      if (this.state === "stopped") this.#held.unshift(...held.splice(0));
      if (this.state === "dead") return;
    }
  }

  die(): void {
    this.#state = "dead";
    this.#held = [];
  }
}

/** What the library finds where Node's own would be. Each is bound to whichever process has the instance just then. */
interface Instance {
  owner: SimulatedProcess | undefined;
  readonly library: Library;
}

const PARAMETERS = [
  "exports", "require", "module", "__filename", "__dirname", "loadModule",
  "setTimeout", "clearTimeout", "setImmediate", "clearImmediate", "performance", "Date", "Math", "process",
] as const;

/**
 * Loads the library as it was built, again and again: each process has an instance of its own, as it would have. What is
 * replaced is around it, not in it: the package has no switch for any of this.
 */
export class LibraryLoader {
  readonly #dist: string;
  readonly #change: { readonly from: RegExp; readonly to: string } | undefined;
  readonly #compiled = new Map<string, (...args: unknown[]) => void>();
  readonly #idle: Instance[] = [];

  /** `dist` is the folder of the built package; `change` breaks it on purpose, at the one place that matches. */
  constructor(dist: string, change?: { readonly from: RegExp; readonly to: string }) {
    this.#dist = resolve(dist);
    this.#change = change;
  }

  /** The library for a process, until it is given back. */
  lend(owner: SimulatedProcess): { readonly library: Library; giveBack: () => void } {
    const instance = this.#idle.pop() ?? this.#load();
    instance.owner = owner;
    return {
      library: instance.library,
      giveBack: () => {
        instance.owner = undefined;
        this.#idle.push(instance);
      },
    };
  }

  #load(): Instance {
    const instance: { owner: SimulatedProcess | undefined; library: Library | undefined } = { owner: undefined, library: undefined };
    const owner = (): SimulatedProcess => {
      if (instance.owner === undefined) throw new Error("the library runs although no process has it");
      return instance.owner;
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
            return { ...(builtin("node:crypto") as object), randomBytes: (length: number) => Buffer.from(owner().chance.bytes(length)) };
          case "nats":
            return { headers: () => new SimulatedHeaders() };
          default:
            return builtin(name);
        }
      };
      const loadModule = (name: string): Promise<unknown> => Promise.resolve(require(name));
      this.#compile(path)(
        module.exports, require, module, path, dirname(path), loadModule,
        globals.setTimeout, globals.clearTimeout, globals.setImmediate, globals.clearImmediate,
        globals.performance, globals.Date, globals.Math, globals.process,
      );
      return module.exports;
    };
    instance.library = load(join(this.#dist, "index.cjs")) as Library;
    return instance as Instance;
  }

  #compile(path: string): (...args: unknown[]) => void {
    let compiled = this.#compiled.get(path);
    if (compiled === undefined) {
      // A dynamic import would leave the simulation's time.
      let code = readFileSync(path, "utf8").replaceAll(/\bimport\(/g, "loadModule(");
      if (this.#change !== undefined && path.endsWith("index.cjs")) {
        const { from, to } = this.#change;
        if (code.split(from).length !== 2) throw new Error(`the built library does not have this once: ${from.source}`);
        code = code.replace(from, () => to);
      }
      compiled = compileFunction(code, [...PARAMETERS], { filename: path }) as (...args: unknown[]) => void;
      this.#compiled.set(path, compiled);
    }
    return compiled;
  }
}

interface TimerHandle {
  ref(): TimerHandle;
  unref(): TimerHandle;
  readonly cancel: () => void;
}

function globalsOf(owner: () => SimulatedProcess) {
  const timer = (ms: number, run: () => void): TimerHandle => {
    const event = owner().after(ms, run);
    const handle: TimerHandle = { ref: () => handle, unref: () => handle, cancel: () => event.cancel() };
    return handle;
  };
  const clear = (handle: TimerHandle | undefined): void => handle?.cancel();
  const wallClock = (): number => EPOCH + Math.floor(owner().engine.now);
  return {
    // As Node does: at least a millisecond.
    setTimeout: (run: () => void, ms = 1) => timer(Math.max(1, ms), run),
    clearTimeout: clear,
    setImmediate: (run: () => void) => timer(0, run),
    clearImmediate: clear,
    performance: { now: () => owner().engine.now },
    Date: new Proxy(Date, {
      construct: (target, args: unknown[]) => (args.length === 0 ? new target(wallClock()) : (Reflect.construct(target, args) as Date)),
      get: (target, name) => (name === "now" ? wallClock : (Reflect.get(target, name) as unknown)),
    }),
    Math: new Proxy(Math, {
      get: (target, name) => (name === "random" ? () => owner().chance.next() : (Reflect.get(target, name) as unknown)),
    }),
    process: new Proxy(process, {
      get: (target, name) =>
        name === "nextTick"
          ? (run: (...args: unknown[]) => void, ...args: unknown[]) => {
              owner().engine.nextTick(() => run(...args));
            }
          : (Reflect.get(target, name) as unknown),
    }),
  };
}

export const wallClockAt = (now: number): number => EPOCH + Math.floor(now);
