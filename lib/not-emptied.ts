/** No empty store in the place of one that is used, by a flag alone: anybody would be its first admin. */
import { StoreError } from "./errors.js";
import { recordsOf } from "./membership-store.js";
import type { RecordsAccess } from "./membership-store.js";
import type { Call } from "./call.js";
import type { Store } from "./store.js";

const notMoved = (name: string, cause?: unknown): StoreError =>
  new StoreError(
    "INCOMPATIBLE",
    `The store is empty, and config.${name} names one that holds users which were not moved to it, or that cannot be ` +
      "looked at: migrate, or leave the section out",
    { details: { notMoved: name }, ...(cause === undefined ? {} : { cause }) },
  );

/** `find` opens the other store that the config names, if it is there. */
export async function checkNotEmptied(
  store: Store,
  name: string,
  find: () => Promise<Store | "out of reach" | undefined>,
): Promise<void> {
  const target = accessOf(store);
  const { kind } = await stepOf(target, (call) => target.moving.state(call));
  // One that is closed takes no admin.
  if (kind !== "open" || (await hasUsers(target))) return;
  const other = await find().catch((error: unknown) => {
    throw notMoved(name, error);
  });
  if (other === undefined || other === "out of reach") return;
  try {
    const source = accessOf(other);
    const { id } = await stepOf(target, (call) => target.moving.identity(call));
    const { kind: at, run } = await stepOf(source, (call) => source.moving.state(call));
    if ((at === "moved" || at === "leaving") && run.peer.id === id) return;
    if (await hasUsers(source)) throw notMoved(name);
  } finally {
    await other.close();
  }
}

function accessOf(store: Store): RecordsAccess {
  const access = recordsOf(store);
  if (access === undefined) throw new Error("a backend of this package");
  return access;
}

const stepOf = <T>(access: RecordsAccess, work: (call: Call) => Promise<T>): Promise<T> =>
  access.step({ timeoutMs: undefined, signal: undefined }, work);

/** Whether there is a user, or ever was an admin, whatever the state of the store. Of users one page is enough. */
async function hasUsers(access: RecordsAccess): Promise<boolean> {
  const reader = await stepOf(access, (call) => access.begin(access.moving.read(undefined, call), call));
  try {
    const page = await stepOf(access, (call) => reader.next(call));
    if (page?.[0]?.kind === "user") return true;
  } finally {
    await access.close(reader);
  }
  return (await stepOf(access, (call) => access.moving.facts(call))).adminEver;
}
