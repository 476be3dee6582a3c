// JSON whose large whole numbers survive: those beyond 2^53 are read as BigInt, and written as they were.

// Large numbers pass through JSON as texts that begin with a mark, and texts that begin with it by themselves get another one. JSON can write it in
// this one way only, so no text of a document is taken for a number.
const MARK = "\u0000";
const WRITTEN = "\\u0000";
// Texts and numbers; names of members have the colon, too. A text may have no end: where that failed, all ways to match it would be tried.
const TOKENS = /(?:"(?:[^"\\]+|\\.)*"?|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(\s*:)?/gs;
const LARGE = /^-?[1-9]\d{15,}$/;
// The time that a number takes grows with the square of its length.
const LONGEST = 4300;

// JSON of others, nested without end, would exhaust the stack of the instance, which no `catch` can see to.
const DEEPEST = 256;
const OTHER = /"(?:[^"\\]+|\\.)*"?|[^[\]{}"]+/gs;

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

/** Throws a SyntaxError for what is no JSON, is nested deeper than 256, or has a whole number of more than 4,300 digits. */
export function parseJson(text) {
  if (isDeep(text)) throw new SyntaxError(`JSON that is nested deeper than ${DEEPEST}`);
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  return JSON.parse(text.replace(TOKENS, marked), (_, value) => (typeof value === "string" && value[0] === MARK ? unmarked(value) : value));
}

function marked(token, colon) {
  if (colon !== undefined) return token;
  if (token.startsWith(`"${WRITTEN}`)) return `"${WRITTEN}${token.slice(1)}`;
  if (!LARGE.test(token) || Number.isSafeInteger(Number(token))) return token;
  if (token.length > LONGEST) throw new SyntaxError(`a number of more than ${LONGEST} digits`);
  return `"${WRITTEN}${token}"`;
}

const unmarked = (value) => (value[1] === MARK ? value.slice(1) : BigInt(value.slice(1)));

export function formatJson(value) {
  let some = false;
  const text = JSON.stringify(value, (_, member) => {
    if (typeof member !== "bigint" && !(typeof member === "string" && member[0] === MARK)) return member;
    some = true;
    return MARK + member;
  });
  return some ? text.replace(TOKENS, bare) : text;
}

function bare(token, colon) {
  if (colon !== undefined || !token.startsWith(`"${WRITTEN}`)) return token;
  const rest = token.slice(1 + WRITTEN.length);
  return rest.startsWith(WRITTEN) ? `"${rest}` : rest.slice(0, -1);
}
