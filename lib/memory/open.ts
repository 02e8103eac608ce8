import { COMMON_OPTIONS, commonInput, fields } from "../arguments.js";
import type { Driver } from "../driver.js";
import { StoreError } from "../errors.js";
import { MembershipStore } from "../membership-store.js";
import { abortReason, isAborted } from "../signal.js";
import type { CommonOptions, Store } from "../store.js";
import { members } from "./members.js";
import { Memory, answer } from "./memory.js";
import { changes } from "./changes.js";
import { checkReads } from "./checks.js";
import { grants } from "./grants.js";
import { inspection } from "./inspection.js";
import { moving } from "./moving.js";
import { records } from "./records.js";
import { roomKeys } from "./room-keys.js";
import { rooms } from "./rooms.js";
import { users } from "./users.js";

/**
 * Opens an empty store in the memory of this process, for the tests of apps. It takes no file and no server, answers at
 * once, and keeps every rule of the contract. What it holds is gone with it, so it is for nothing else. Lists look at
 * everything there is. `onOpening` is told nothing: there are no phases.
 *
 * @example
 * const store = await openMemory();
 * await store.users.addFirstAdmin({ key: "a1b2" });
 * const app = startApp({ store });
 */
export function openMemory(options?: CommonOptions): Promise<Store> {
  return answer(() => {
    const { opTimeoutMs, signal } = commonInput(fields(options ?? {}, "options", COMMON_OPTIONS), "options");
    if (isAborted(signal))
      throw new StoreError("TIMEOUT", "The opening was aborted by its signal", { cause: abortReason(signal) });
    return new MembershipStore(memoryDriver(new Memory()), opTimeoutMs);
  });
}

export function memoryDriver(memory: Memory): Driver {
  return {
    backend: "memory",
    rooms: rooms(memory),
    members: members(memory),
    roomKeys: roomKeys(memory),
    users: users(memory),
    checks: checkReads(memory),
    records: records(memory),
    inspection: inspection(memory),
    changes: changes(memory),
    grants: grants(memory),
    moving: moving(memory),
    close: () => Promise.resolve(),
  };
}
