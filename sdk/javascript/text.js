// Texts that UTF-8 can hold. QuickJS ends the instance where another one is handed over, and JSON of others may have such texts.

const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** The text with U+FFFD in place of a surrogate without its other half. */
export const wellFormed = (text) => (/[\ud800-\udfff]/.test(text) ? text.replace(LONE, "\ufffd") : text);

/** The value of an argument, with all texts in it like this. */
export function sendable(value) {
  if (typeof value === "string") return wellFormed(value);
  if (Array.isArray(value)) return value.map(sendable);
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, sendable(member)]));
}
