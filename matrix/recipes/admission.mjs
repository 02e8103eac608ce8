/**
 * What a denial is as an answer over HTTP. Only what was proved is told to the user: the rest is to be tried again.
 *
 * @param {import("unibus-membership").Denial} denial
 */
export function statusOf({ reason }) {
  switch (reason) {
    case "malformed":
      return 400;
    case "unknown":
    case "revoked":
    case "expired":
      return 403;
    default:
      return 503; // nothing is known: let nobody in, and tell the operators
  }
}

/**
 * Stands for your own: checks a signature over the request, and answers the key that made it. A key is public, and
 * proves nothing by itself.
 *
 * @param {{ headers: import("node:http").IncomingHttpHeaders }} request
 */
export function provedKey(request) {
  return String(request.headers["x-sign-key"] ?? "");
}
