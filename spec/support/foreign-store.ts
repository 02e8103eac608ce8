import { hasAdmin, isAdmin, isAuthorized, isMember, type Store } from "unibus-membership";

/** The same store in other clothes: what the library is given when somebody else wrote the store. */
export function foreign(store: Store): Store {
  return {
    backend: store.backend,
    rooms: store.rooms,
    members: store.members,
    roomKeys: store.roomKeys,
    users: store.users,
    authorize: (key, options) => store.authorize(key, options),
    isAuthorized: (key, options) => store.isAuthorized(key, options),
    isAdmin: (key, options) => store.isAdmin(key, options),
    isMember: (roomId, endpoint, options) => store.isMember(roomId, endpoint, options),
    hasAdmin: (options) => store.hasAdmin(options),
    watch: (options) => store.watch(options),
    session: (key, options) => store.session(key, options),
    close: () => store.close(),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

/** A store whose checks are the package's functions over `inner`. */
export function throughFunctions(inner: Store): Store {
  return {
    ...foreign(inner),
    isAuthorized: (key, options) => isAuthorized(inner, key, options),
    isAdmin: (key, options) => isAdmin(inner, key, options),
    isMember: (roomId, endpoint, options) => isMember(inner, roomId, endpoint, options),
    hasAdmin: (options) => hasAdmin(inner, options),
  };
}
