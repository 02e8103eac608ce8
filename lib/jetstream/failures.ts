/** What went wrong with a request. Both clients' errors are known by shape: they share neither prototypes nor codes. */
import { StoreError } from "../errors.js";

/**
 * What a failed request tells. After `lost` the request may still have been carried out, and after `no-answers` too:
 * the client may not hear what is said to it. Nobody took what was `refused`.
 */
export type Failure = "closed" | "lost" | "no-answers" | "no-responders" | "refused";

/** Waiting does not open a closed connection, nor does it give a permission. */
export function isFinal(failure: Failure): boolean {
  return failure === "closed" || failure === "refused" || failure === "no-answers";
}

/** Why a request has no answer, where it is the library that knows. */
export class RequestFailure extends Error {
  override readonly name = "RequestFailure";
  readonly failure: Failure;

  constructor(failure: Failure, message: string) {
    super(message);
    this.failure = failure;
  }
}

interface ErrorShape {
  readonly name: string;
  readonly code: string;
  readonly message: string;
}

function shape(error: unknown): ErrorShape {
  if (typeof error !== "object" || error === null) return { name: "", code: "", message: String(error) };
  const { name, code, message } = error as { name?: unknown; code?: unknown; message?: unknown };
  return {
    name: typeof name === "string" ? name : "",
    code: typeof code === "string" ? code : "",
    message: typeof message === "string" ? message : "",
  };
}

/** Of the two permissions that a request needs, the one to publish it: the other is to hear the answer. */
function mayNotPublish(error: unknown): boolean {
  const { operation, permissionContext } = error as {
    operation?: unknown;
    permissionContext?: { operation?: unknown };
  };
  return (permissionContext?.operation ?? operation) === "publish";
}

/**
 * Names are of the 3.x client, codes of the 2.x client. What neither knows counts as lost: nothing is concluded from
 * it.
 */
export function failureOf(error: unknown): Failure {
  if (error instanceof RequestFailure) return error.failure;
  const { name, code, message } = shape(error);
  if (name === "ClosedConnectionError" || name === "DrainingConnectionError") return "closed";
  if (code === "CONNECTION_CLOSED" || code === "CONNECTION_DRAINING") return "closed";
  if (code === "503" || name === "NoResponders" || name === "NoRespondersError") return "no-responders";
  if (name === "RequestError") {
    const cause = (error as { cause?: unknown }).cause;
    if (message.startsWith("no responders")) return "no-responders";
    if (cause !== undefined && cause !== error) return failureOf(cause);
    return "lost";
  }
  if (code === "PERMISSIONS_VIOLATION" || name === "PermissionViolationError")
    return mayNotPublish(error) ? "refused" : "no-answers";
  if (code === "MAX_PAYLOAD_EXCEEDED" || message.includes("max_payload")) return "refused";
  return "lost";
}

export function unavailable(failure: Failure, cause: unknown): StoreError {
  switch (failure) {
    case "closed":
      return new StoreError("UNAVAILABLE", "The NATS connection is closed or draining", { cause });
    case "no-responders":
      return new StoreError("UNAVAILABLE", "JetStream does not answer: no leader, no quorum, or not enabled", {
        cause,
      });
    case "refused":
      return new StoreError("UNAVAILABLE", "The NATS server refuses the request", { cause });
    case "no-answers":
      return new StoreError(
        "UNAVAILABLE",
        "The NATS server refuses to deliver answers: the inbox of the connection is not permitted",
        { cause },
      );
    case "lost":
      return new StoreError("UNAVAILABLE", "JetStream did not answer", { cause });
  }
}
