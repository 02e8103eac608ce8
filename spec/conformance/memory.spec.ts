import { faulty, openMemory } from "unibus-membership/testing";
import { conforms, opTimeoutMs } from "../support/conforms.js";
import { foreign, throughFunctions } from "../support/foreign-store.js";

conforms("memory", () => ({ fresh: async () => ({ store: await openMemory({ opTimeoutMs }) }) }));

conforms("memory, through the functions", () => ({
  fresh: async () => ({ store: throughFunctions(await openMemory({ opTimeoutMs })) }),
}));

conforms("memory, through the functions over a store of somebody else", () => ({
  fresh: async () => ({ store: throughFunctions(foreign(await openMemory({ opTimeoutMs }))) }),
}));

conforms("memory, with no faults, as a copy, through the functions", () => ({
  fresh: async () => ({ store: throughFunctions({ ...faulty(await openMemory({ opTimeoutMs }), []) }) }),
}));
