// JSON whose large whole numbers survive: those beyond 2^53 are read as BigInt, and written as they were.

const MARK = "\u0000";
const TOKENS = /"(?:[^"\\]+|\\.)*"|-?\d{16,}(?![\d.eE])/g;
const MARKED = /"\\u0000(-?\d+)"/g;

// JSON of others, nested without end, would exhaust the stack of the instance, which no `catch` can see to.
const DEEPEST = 256;
const OTHER = /"(?:[^"\\]+|\\.)*"|[^[\]{}"]+/gs;

function isDeep(text) {
  const opening = /[[{]/g;
  for (let some = 0; some <= DEEPEST; some++) if (!opening.test(text)) return false;
  let depth = 0;
  for (const bracket of text.replace(OTHER, "")) {
    depth += bracket === "[" || bracket === "{" ? 1 : -1;
    if (depth > DEEPEST) return true;
  }
  return false;
}

/** Throws a SyntaxError for what is no JSON, or is nested deeper than 256. */
export function parseJson(text) {
  if (isDeep(text)) throw new SyntaxError(`JSON that is nested deeper than ${DEEPEST}`);
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  const marked = text.replace(TOKENS, (token) =>
    token[0] === '"' || Number.isSafeInteger(Number(token)) ? token : `"\\u0000${token}"`,
  );
  return JSON.parse(marked, (_, value) => (typeof value === "string" && value[0] === MARK ? large(value) : value));
}

// A text of the document may start with the mark, too.
function large(value) {
  return /^-?\d{16,}$/.test(value.slice(1)) ? BigInt(value.slice(1)) : value;
}

export function formatJson(value) {
  let some = false;
  const text = JSON.stringify(value, (_, member) => {
    if (typeof member !== "bigint") return member;
    some = true;
    return MARK + member;
  });
  return some ? text.replace(MARKED, "$1") : text;
}
