const { isAlreadyExists, isTimeout, isUnavailable } = require("unibus-membership");

/**
 * The app that the tests of this folder are about: who may come in, and who has to try again.
 *
 * @param {import("unibus-membership").Store} store
 * @param {string} key
 */
async function door(store, key) {
  const { allowed, reason } = await store.authorize(key);
  if (allowed) return 200;
  return reason === "timeout" || reason === "unavailable" ? 503 : 403;
}

/**
 * @param {import("unibus-membership").Store} store
 * @param {string} key
 */
async function enrol(store, key) {
  for (let tries = 1; ; tries++) {
    try {
      return await store.users.add({ key });
    } catch (error) {
      if (isAlreadyExists(error)) return await store.users.get(key); // an earlier try was done
      if (tries === 3 || !(isTimeout(error) || isUnavailable(error))) throw error;
    }
  }
}

module.exports = { door, enrol };
