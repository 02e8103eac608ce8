/** A store in a file as one side of a migration. Its state is a record of the log, as every change. */
import type { MovingDriver } from "../driver.js";
import { revisionsFrom, stepFrom } from "../moves.js";
import type { StoreIdentity } from "../moves.js";
import { answer } from "./database.js";
import type { Database } from "./database.js";
import type { Holding } from "./lease.js";
import { readerOf } from "./records.js";

export function moving(database: Database, holding: Holding, identity: StoreIdentity): MovingDriver {
  const { tables } = database;
  return {
    identity: () => answer(() => identity),
    // What is read is what this process holds, and as of a moment in which nobody else can hold it.
    state: async () => {
      await holding.ensure();
      return tables.state;
    },
    fence: (run, call) => database.fence(run, call),
    step: (name, id, report, call) => database.step((state) => stepFrom(state, name, id, report), call),
    facts: async () => {
      await holding.ensure();
      return { ...revisionsFrom(database.durableSequence), adminEver: tables.adminEver };
    },
    read: async (names) => {
      await holding.ensure();
      return readerOf(database, names);
    },
  };
}
