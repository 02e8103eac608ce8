/** Ids as tokens of NATS subjects, for permissions and subjects of an app's own. */
import { Buffer } from "node:buffer";
import { id as checkedId, invalid } from "./arguments.js";

const TOKEN = /^[A-Za-z0-9_-]+$/;

/**
 * A room or endpoint id as one token of a NATS subject: unpadded base64url (RFC 4648, section 5) of its UTF-8 bytes. An
 * id may hold spaces, dots and wildcards; its token holds none of them, is case-sensitive, and has at most 342
 * characters.
 *
 * Throws `INVALID_ARGUMENT` for what is no id. {@link fromSubjectToken} is the way back.
 *
 * @example
 * nc.subscribe(`chat.${subjectToken("general.*")}.>`);
 */
export function subjectToken(id: string): string {
  return Buffer.from(checkedId(id, "id"), "utf8").toString("base64url");
}

/**
 * The id of a token that {@link subjectToken} made. Throws `INVALID_ARGUMENT` for every other text, so that no two
 * tokens are of one id.
 *
 * @example
 * const [, room = ""] = message.subject.split(".");
 * const roomId = fromSubjectToken(room);
 */
export function fromSubjectToken(token: string): string {
  const decoded =
    typeof token === "string" && TOKEN.test(token) ? Buffer.from(token, "base64url").toString("utf8") : "";
  let isOwn: boolean;
  try {
    isOwn = subjectToken(decoded) === token;
  } catch {
    isOwn = false;
  }
  if (!isOwn) throw invalid("token", "a token that subjectToken made");
  return decoded;
}
