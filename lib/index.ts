export { openSqlite } from "./sqlite/open.js";
export type { SqliteOptions } from "./sqlite/open.js";
export type { CheckpointResult } from "./sqlite/checkpoint.js";
export { openJetStream } from "./jetstream/open.js";
export type { JetStreamOptions, RolloutProgress } from "./jetstream/open.js";
export type { NatsConnection } from "./jetstream/nats-connection.js";
export type { NatsConnectOptions } from "./jetstream/section.js";
export { openStore } from "./config.js";
export type { StoreConfig } from "./config.js";
export { storeConfigFromEnv } from "./config-from-env.js";
export { fromSubjectToken, subjectToken } from "./subject-token.js";
export { exportStore } from "./transfer/export.js";
export { migrate } from "./transfer/migrate.js";
export type { MigrateOptions, MigrationReport } from "./transfer/migrate.js";
export { endMigration } from "./transfer/end-migration.js";
export type { EndMigrationOptions } from "./transfer/end-migration.js";
export { importStore } from "./transfer/import.js";
export type { ImportReport } from "./transfer/import.js";
export { inspect } from "./inspect/inspect.js";
export type { InspectOptions, Inspection } from "./inspect/inspect.js";
export type { Finding, FindingCode } from "./findings.js";
export type { BulkOptions, BulkProgress, Counts } from "./transfer/options.js";
export type { DecisionMessage, EventMessage, OperationMessage } from "./diagnostics.js";
export { SessionEnded } from "./sessions/session-ended.js";
export { hasAdmin, isAdmin, isAuthorized, isMember } from "./authorization.js";
export {
  StoreError,
  isAlreadyExists,
  isClosed,
  isConflict,
  isCorrupt,
  isIncompatible,
  isInvalidArgument,
  isLocked,
  isNotFound,
  isStoreError,
  isTimeout,
  isUnavailable,
} from "./errors.js";
export type { StoreErrorCode, StoreErrorOptions } from "./errors.js";
export type {
  CallOptions,
  CheckOptions,
  CommonOptions,
  Decision,
  Denial,
  JetStreamProof,
  LogPlace,
  Member,
  Members,
  MemoryProof,
  NewMember,
  NewRoom,
  NewUser,
  OpeningProgress,
  Page,
  PageRequest,
  Precondition,
  Proof,
  RekeyOptions,
  Replicas,
  Room,
  RoomChange,
  RoomKey,
  RoomKeys,
  Rooms,
  Session,
  SessionOptions,
  SqliteProof,
  Store,
  StoreEvent,
  User,
  UserChange,
  Users,
  Watch,
  WatchOptions,
} from "./store.js";
