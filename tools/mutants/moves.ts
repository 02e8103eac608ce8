// Migrations: the arguments of docs/migration.md, and of protocol.md, Q.

import { bySpec, type Mutant } from "./mutant.js";

const stoppedRuns = (test: string) => bySpec("spec/jetstream/stopped-runs.spec.ts", test);
const oldStores = (test: string) => bySpec("spec/jetstream/old-stores.spec.ts", test);
const migrations = (test: string) => bySpec("spec/migrate.spec.ts", test);
const configs = (test: string) => bySpec("spec/config.spec.ts", test);

export const movesMutants: readonly Mutant[] = [
  {
    name: "a floor of revisions by whatever a clock says",
    file: "lib/rules.ts",
    find: "Math.min(Date.now(), MAX_OF_CLOCK)",
    replace: "Date.now()",
    breaks: "After a migration by a clock that is far off there are revisions left for the next one.",
    killedBy: migrations("a clock that is far off"),
  },
  {
    name: "a run that was stopped empties users of another one",
    file: "lib/jetstream/record-writer.ts",
    find: `userPages.page(after, USERS, isThere, call);
    await this.#checkMine(call);`,
    replace: "userPages.page(after, USERS, isThere, call);",
    breaks: "What is emptied was read before a fence says that the state is the run's own still.",
    killedBy: stoppedRuns("stopped before clear"),
  },
  {
    name: "a run that was stopped takes rooms of another one away",
    file: "lib/jetstream/record-writer.ts",
    find: `({ roomId, slot: await log.records.slot(roomId, "certain", call) })),
    );
    await this.#checkMine(call);`,
    replace: `({ roomId, slot: await log.records.slot(roomId, "certain", call) })),
    );`,
    breaks:
      "A tombstone is on the condition of what was read before a fence says that the state is the run's own still.",
    killedBy: stoppedRuns("stopped before follow"),
  },
  {
    name: "a run that was stopped writes its guard over another one's",
    file: "lib/jetstream/admin-guard.ts",
    find: "await check(call);",
    replace: "",
    breaks: "The guard is replaced as it was read before a fence says that the state is the run's own still.",
    killedBy: stoppedRuns("stopped before the guard of the admins"),
  },
  {
    name: "what was written before an empty target was closed is taken for what a run wrote",
    file: "lib/jetstream/record-writer.ts",
    find: " && !isUnchecked(before.users)",
    replace: "",
    breaks: "A target that holds anything else is left as it was, also where the run died before it had looked.",
    killedBy: stoppedRuns("just before it was closed is left"),
  },
  {
    name: "a run that was stopped opens the rooms of an import which goes on",
    file: "lib/jetstream/record-writer.ts",
    find: `if (before.users.name === IMPORTING) await reopen(users, before.users.seq);
      if (before.rooms.name === IMPORTING) await reopen(rooms, before.rooms.seq);`,
    replace: `if (before.rooms.name === IMPORTING) await reopen(rooms, before.rooms.seq);
      if (before.users.name === IMPORTING) await reopen(users, before.users.seq);`,
    breaks:
      "What an import writes is never opened before everything is there: who comes next would open its users too.",
    killedBy: stoppedRuns("wakes when that one writes"),
  },
  {
    name: "two states that were read at two moments are taken for one",
    file: "lib/jetstream/record-writer.ts",
    find: "if (before.users.name === IMPORTING && before.rooms.name !== IMPORTING) before",
    replace: "if (before.users.name === this.#id) before",
    breaks: "An import whose closing of `rooms` was not read yet is not taken for one that has written nothing.",
    killedBy: stoppedRuns("has read one of the states"),
  },
  {
    name: "a run whose rival says first that everything is there gives up",
    file: "lib/transfer/migrate.ts",
    find: `if (kind === "complete" && run.peer.id === source.identity.id) return undefined;`,
    replace: "void [kind, run];",
    breaks: "Of two that run one wins: the fence of the first was lifted, so that it cannot end what it has compared.",
    killedBy: migrations("just before it says that everything is there"),
  },
  {
    name: "a run that meets the fence of the one it has taken over gives up",
    file: "lib/transfer/migrate.ts",
    find: "if (await this.#isFenced(writer)) return undefined;",
    replace: "await this.#isFenced(writer);",
    breaks: "Of two that run one wins: that of the fence has lost the target.",
    killedBy: migrations("while the fence of the other one stands"),
  },
  {
    name: "two steps of a file's state are decided at once",
    file: "lib/sqlite/database.ts",
    find: "this.#stateChanged = changed.catch(() => undefined);",
    replace: "changed.catch(() => undefined);",
    breaks: "A source that has ended is not opened by whoever lifts its fence at that moment.",
    killedBy: migrations("of two steps at once one is done"),
  },
  {
    name: "settings that are changed on purpose are put back",
    file: "lib/jetstream/stream-settings.ts",
    find: "!changes.has(name) && !isSame",
    replace: "!isSame",
    breaks:
      "An update that takes a late fence back is sent again until it is forgotten, and nobody is allowed meanwhile.",
    killedBy: oldStores("is not sent again and again"),
  },
  {
    name: "each message of a long log counts as a version of a user",
    file: "lib/jetstream/user-versions.ts",
    find: "if (most <= FEW) return",
    replace: "if (most > 0) return",
    breaks: "A store whose log had very many messages can be moved on, and its exports can be read.",
    killedBy: migrations("very many messages"),
  },
  {
    name: "a fence of users that was held up comes when its run has failed",
    file: "lib/jetstream/moving.ts",
    find: `if (name !== "lift" || found.state.kind !== "open") return found;`,
    replace: `if (name !== "lift" || found.users.name !== "") return found;`,
    breaks: "A fence does not outlive a run that fails, however long it was on its way.",
    killedBy: stoppedRuns("a fence of users that is held up"),
  },
  {
    name: "a fence of rooms that was held up comes when that of users was lifted",
    file: "lib/jetstream/importing.ts",
    find: "if (await isRenewed(rooms, found, call)) return;",
    replace: "return;",
    breaks: "A fence does not outlive a run that fails, in either log.",
    killedBy: stoppedRuns("a fence of rooms that is held up"),
  },
  {
    name: "a fence that comes between two reads is lifted",
    file: "lib/jetstream/importing.ts",
    find: "if (again.users.seq !== found.users.seq || again.rooms.seq !== found.rooms.seq) continue;",
    replace: "",
    breaks: "Only a fence that is being lifted stands in rooms alone.",
    killedBy: stoppedRuns("a fence that comes between two reads"),
  },
  {
    name: "a watch goes on in a store that was moved",
    file: "lib/sqlite/changes-feed.ts",
    find: "new TablesFeed(database, holding, wanted === undefined)",
    replace: "new TablesFeed(database, holding, true)",
    breaks: "Only a migration hears what was changed up to the fence. A watch proves nothing behind it.",
    killedBy: migrations("a watch proves nothing of a source that is fenced"),
  },
  {
    name: "what was written up to the fence is left behind",
    file: "lib/transfer/migrate.ts",
    find: "await this.#bring(writer, await this.#changed(feed, before));",
    replace: "await this.#bring(writer, before);",
    breaks: "Everything that was acknowledged before the fence is in the target.",
    killedBy: migrations("from memory to memory what is written just before the fence"),
  },
  {
    name: "a fence without settings",
    file: "lib/jetstream/moving.ts",
    find: `nobody writes either who does not know of states.
    await this.#parts.settings.follow(call);`,
    replace: "nobody writes either who does not know of states.",
    breaks: "What is read behind the fence is all that was stored, also by a store that knows of no state.",
    killedBy: oldStores("on its way then is refused"),
  },
  {
    name: "settings that are not looked at before the source's end",
    file: "lib/jetstream/moving.ts",
    find: `if (name === "leave") await settings.follow(call);`,
    replace: "",
    breaks: "A late update of settings is found before the target opens.",
    killedBy: oldStores("a late update has taken back"),
  },
  {
    name: "settings of a fence that was lifted stay",
    file: "lib/jetstream/open.ts",
    find: "if (fenceIn(state.config) !== undefined || users.isSource) await followIfPossible(parts, call);",
    replace: "",
    breaks: "Whoever lifts a fence can die before the settings say so: others put them right.",
    killedBy: oldStores("put right by whoever opens it"),
  },
  {
    name: "a migration back lets barriers of format 1 through",
    file: "lib/jetstream/settings-fence.ts",
    find: `return "was" in state && state.was !== undefined ? { takes: OF_TARGET`,
    replace: `return "was" in state && state.run === undefined ? { takes: OF_TARGET`,
    breaks: "While a store is filled again, a store of format 1 proves nothing of what stood there.",
    killedBy: oldStores("and everything again once it is the store"),
  },
  {
    name: "what stands in the target is not compared",
    file: "lib/transfer/migrate.ts",
    find: "if (!this.#ledger.holds(part)) throw differs();",
    replace: "",
    breaks: "The target opens only if it holds what was read of the source, record by record.",
    killedBy: stoppedRuns("what another writer put into the target"),
  },
  {
    name: "an empty store opens in the place of one that is used",
    file: "lib/not-emptied.ts",
    find: "if (await hasUsers(source)) throw notMoved(name);",
    replace: "",
    breaks: "A flag alone makes nobody the first admin of an empty store.",
    killedBy: configs("refuses it while the other one holds users"),
  },
  {
    name: "users that were moved elsewhere count as moved here",
    file: "lib/not-emptied.ts",
    find: "&& run.peer.id === id) return;",
    replace: ") return;",
    breaks: "An empty store opens only in the place of one that was moved to it.",
    killedBy: configs("were moved elsewhere"),
  },
];
