// The check of a config.
import { ConfigError } from "./errors.js";

const ARTICLES = { string: "a text", number: "a number", integer: "a whole number", boolean: "true or false", object: "a table" };

/**
 * Checks a config against a shape and returns it: `{ header: "string", fields: ["string"], keys: { "*": { name: "string" } }, realm: "string?" }`. A list of
 * one shape is a list of such values, the member `*` stands for any name, and `?` for a value that may be missing.
 */
export function check(value, shape, path = "") {
  if (typeof shape === "string") {
    const kind = shape.replace("?", "");
    if (!Object.hasOwn(ARTICLES, kind)) throw new TypeError(`check: no kind is called "${kind}": expected one of ${Object.keys(ARTICLES).join(", ")}`);
    const good = kind === "integer" ? Number.isSafeInteger(value) : typeof value === kind;
    if (!good) throw new ConfigError(path, `expected ${ARTICLES[kind]}`);
  } else if (Array.isArray(shape)) {
    if (!Array.isArray(value)) throw new ConfigError(path, "expected a list");
    value.forEach((item, at) => check(item, shape[0], `${path}[${at}]`));
  } else {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new ConfigError(path, "expected a table");
    const key = (name) => (path ? `${path}.${name}` : name);
    for (const [name, member] of Object.entries(value)) {
      const known = Object.hasOwn(shape, name) ? shape[name] : shape["*"];
      if (known === undefined) throw new ConfigError(key(name), "unknown key");
      check(member, known, key(name));
    }
    for (const [name, member] of Object.entries(shape)) {
      const optional = name === "*" || (typeof member === "string" && member.endsWith("?"));
      if (!optional && !Object.hasOwn(value, name)) throw new ConfigError(key(name), "is needed");
    }
  }
  return value;
}
