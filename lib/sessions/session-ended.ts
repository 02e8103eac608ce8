import type { Denial } from "../store.js";

/** Why a session's signal has aborted. */
export class SessionEnded extends Error {
  override readonly name = "SessionEnded";
  readonly denial: Denial;

  constructor(denial: Denial) {
    super(`The session has ended: ${denial.reason}`, denial.error === undefined ? {} : { cause: denial.error });
    this.denial = denial;
  }
}
