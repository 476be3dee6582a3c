// UTF-8 (RFC 3629) without TextEncoder, which QuickJS lacks.
import { wellFormed } from "./text.js";

const CHUNK = 8192;

/** The text of bytes; throws a URIError for what is not UTF-8. */
export function decode(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += CHUNK) text += String.fromCharCode.apply(null, bytes.subarray(at, at + CHUNK));
  // Each unit is a byte. Only where some are no ASCII is there anything to decode.
  return /[\x80-\xff]/.test(text) ? decodeURIComponent(percent(text)) : text;
}

function percent(text) {
  return text.replace(/[%\x80-\xff]/g, (c) => "%" + (c.charCodeAt(0) + 256).toString(16).slice(1));
}

/** The bytes of a text. A surrogate without its other half becomes U+FFFD. */
export function encode(text) {
  if (/[^\x00-\x7f]/.test(text)) {
    text = encodeURIComponent(wellFormed(text));
    text = text.replace(/%([0-9A-F]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  }
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}
