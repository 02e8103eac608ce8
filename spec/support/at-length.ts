/** The long form of a spec, as `npm run soak` asks for: too long for every run. */
export const AT_LENGTH = process.env["UNIBUS_AT_LENGTH"] === "1";
