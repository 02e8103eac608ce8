/**
 * Where the code is in the text. The formatter decides where a line ends, and puts a comma behind a list over several
 * lines.
 */
export function placesOf(code: string, text: string): RegExpExecArray[] {
  const escaped = code.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const anyLayout = escaped
    .replace(/\s+/g, "\\s+")
    .replace(/(\\[([{])/g, "$1\\s*")
    .replace(/(\\[)\]}])/g, ",?\\s*$1")
    .replace(/\\\./g, "\\s*\\.");
  return [...text.matchAll(new RegExp(anyLayout, "g"))];
}
