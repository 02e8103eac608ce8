// What the library is compared with, as far as the bench uses it. `npm ci` in the root installs none of it, and types
// and lint want nothing more. A declaration here comes before one that bench/node_modules may have.

declare module "better-sqlite3" {
  interface Statement {
    run(...values: readonly (string | number)[]): unknown;
    get(...values: readonly (string | number)[]): unknown;
    all(): unknown[];
  }

  class Database {
    constructor(path: string);
    pragma(pragma: string): unknown;
    exec(sql: string): this;
    prepare(sql: string): Statement;
    transaction<Args extends readonly unknown[]>(work: (...args: Args) => void): (...args: Args) => void;
    close(): this;
  }

  export default Database;
}

declare module "etcd3" {
  export class Etcd3 {
    constructor(options: { readonly hosts: readonly string[] });
    put(key: string): { value(value: string): Promise<unknown> };
    get(key: string): { string(): Promise<string | null> };
    close(): void;
  }
}

/** Node has it from 22.5 on, and the types of Node 20 have not. */
declare module "node:sqlite" {
  export class DatabaseSync {
    constructor(path: string);
    exec(sql: string): void;
    prepare(sql: string): {
      run(...values: readonly (string | number)[]): unknown;
      get(...values: readonly (string | number)[]): unknown;
      all(): unknown[];
    };
    close(): void;
  }
}
