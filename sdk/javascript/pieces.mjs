// Bodies that stream, for the double of the gateway: pieces one after the other, with what the filter says of each.
import { Buffer, isUtf8 } from "node:buffer";

// Each byte as a character: what is not UTF-8 stays as it is.
const latin1 = (body) => Buffer.from(body).toString("latin1");
const bytesOf = (text) => Uint8Array.from(Buffer.from(text, "latin1"));

/** Sends pieces of a body through a hook, and the end of the body after them. Answers what went on at each call, as texts. */
export function stream(exchange, pieces, call, isEvent = false) {
  const sent = [];
  let kept = new Uint8Array();
  for (let at = 0; at <= pieces.length; at++) {
    const isLast = at === pieces.length;
    const bytes = joined([kept, pieces[at] ?? new Uint8Array()]);
    const piece = (exchange.piece = { bytes, isLast, isEvent, replacement: undefined, held: 0, ends: false, passesRest: false });
    call();
    if (exchange.failure !== undefined) throw new Error(exchange.failure);
    const front = bytes.length - piece.held;
    sent.push(piece.replacement ?? bytes.slice(0, front));
    kept = bytes.slice(front);
    if (piece.ends) break;
    if (piece.passesRest) {
      sent.push(joined([kept, ...pieces.slice(at + 1)]));
      break;
    }
  }
  exchange.piece = undefined;
  return sent.map((bytes) => new TextDecoder().decode(bytes));
}

/** The events of a body: server-sent ones, or lines. */
export function events(body, isLines) {
  return (latin1(body).match(isLines ? /[^\n]*\n|[^\n]+$/g : /(?:.+\n)*(?:.*\n|.+$)/g) ?? []).map(bytesOf);
}

/** The functions of `chunk` on the piece of the current exchange. */
export function chunk(current) {
  const piece = () => current().piece ?? refuse("wrong-hook", "there is no piece here");
  const event = () => (piece().isEvent ? latin1(piece().bytes) : refuse("wrong-hook", "the piece is no event"));
  const isLines = () => !/text\/event-stream/.test(current().response.headers["content-type"] ?? "");
  const fields = (name) => {
    const lines = event().split("\n").map((line) => /^([^:]*)(?:: ?(.*))?$/s.exec(line));
    return lines.filter((line) => line[1] === name).map((line) => line[2] ?? "");
  };
  // What is not UTF-8 is absent.
  const text = (value) => (value !== undefined && isUtf8(bytesOf(value)) ? Buffer.from(value, "latin1").toString() : null);
  const data = () => {
    if (isLines()) return text(event().replace(/\n$/, "") || undefined);
    const values = fields("data");
    return text(values.length === 0 ? undefined : values.join("\n"));
  };
  return {
    length: () => piece().bytes.length,
    read: (offset, length) => piece().bytes.slice(offset, offset + length),
    isLast: () => piece().isLast,
    replace: (bytes) => void (piece().replacement = bytes),
    hold(tail) {
      if (piece().isEvent) refuse("wrong-hook", "an event can't be held");
      if (tail > piece().bytes.length || (tail > 0 && piece().isLast)) refuse("invalid", `${tail} bytes can't be kept back`);
      piece().held = tail;
    },
    end: () => void (piece().ends = true),
    passRest: () => void (piece().passesRest = true),
    eventName: () => (isLines() ? null : text(fields("event").at(-1))),
    eventId: () => (isLines() ? null : text(fields("id").at(-1))),
    eventData: data,
    setEventData(value) {
      if (isLines() && value.includes("\n")) refuse("invalid", "a line end in the data of a line");
      const others = event().split("\n").filter((line) => line !== "" && !/^data(:|$)/.test(line));
      const lines = latin1(value).split("\n");
      piece().replacement = bytesOf((isLines() ? [...lines, ""] : [...others, ...lines.map((line) => `data: ${line}`), "", ""]).join("\n"));
    },
  };
}

function refuse(tag, val) {
  throw { tag, val };
}

function joined(parts) {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}
