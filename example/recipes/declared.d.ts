// What the recipes use of packages that `npm ci` in the root does not install: types and lint want nothing more. A
// declaration here comes before one that a recipe's node_modules may have.

declare module "prom-client" {
  interface Settings<Label extends string> {
    readonly name: string;
    readonly help: string;
    readonly labelNames: readonly Label[];
    readonly registers: readonly Registry[];
  }

  export class Registry {
    readonly contentType: string;
    metrics(): Promise<string>;
  }

  export class Counter<Label extends string> {
    constructor(settings: Settings<Label>);
    inc(labels: Readonly<Partial<Record<Label, string>>>): void;
  }

  export class Histogram<Label extends string> {
    constructor(settings: Settings<Label> & { readonly buckets: readonly number[] });
    observe(labels: Readonly<Partial<Record<Label, string>>>, value: number): void;
  }
}

declare module "@opentelemetry/api" {
  type Attributes = Readonly<Record<string, string | number | boolean>>;

  export enum SpanKind {
    CLIENT = 2,
  }

  export enum SpanStatusCode {
    ERROR = 2,
  }

  export interface SpanContext {
    readonly spanId: string;
  }

  export interface Span {
    spanContext(): SpanContext;
    setAttribute(name: string, value: string): this;
    setStatus(status: { readonly code: SpanStatusCode; readonly message?: string }): this;
    end(): void;
  }

  export interface Tracer {
    startSpan(
      name: string,
      options: { readonly kind?: SpanKind; readonly startTime?: number; readonly attributes?: Attributes },
    ): Span;
    startActiveSpan<T>(name: string, work: (span: Span) => T): T;
  }

  export const trace: {
    getTracer(name: string): Tracer;
    setGlobalTracerProvider(provider: { getTracer(name: string): Tracer }): boolean;
  };
  export const context: { setGlobalContextManager(manager: object): boolean };
}

declare module "@opentelemetry/context-async-hooks" {
  export class AsyncLocalStorageContextManager {
    enable(): this;
  }
}

declare module "@opentelemetry/sdk-trace-base" {
  import type { SpanContext, SpanStatusCode, Tracer } from "@opentelemetry/api";

  export interface ReadableSpan {
    readonly name: string;
    readonly status: { readonly code: SpanStatusCode | 0; readonly message?: string };
    readonly attributes: Readonly<Record<string, unknown>>;
    readonly parentSpanContext?: SpanContext;
    spanContext(): SpanContext;
  }

  export class InMemorySpanExporter {
    getFinishedSpans(): ReadableSpan[];
  }

  export class SimpleSpanProcessor {
    constructor(exporter: InMemorySpanExporter);
    shutdown(): Promise<void>;
  }

  export class BasicTracerProvider {
    constructor(settings: { readonly spanProcessors: readonly SimpleSpanProcessor[] });
    getTracer(name: string): Tracer;
    forceFlush(): Promise<void>;
  }
}
