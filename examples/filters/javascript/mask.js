// Masks a word in texts and in server-sent events while they stream.
import { check, ConfigError, utf8 } from "sluice-filter";

// Each byte as a character: a piece may end within a character of UTF-8.
const latin1 = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
const bytes = (text) => Uint8Array.from(text, (character) => character.charCodeAt(0));

export default class Mask {
  constructor(config, setup) {
    const { word } = check(config, { word: "string" });
    if (word === "") throw new ConfigError("word", "expected a word");
    this.word = latin1(utf8.encode(word));
    this.stars = "*".repeat(this.word.length);
    setup.requestChunks(["text/plain"]);
    setup.responseChunks(["text/plain"]);
    setup.responseEvents(["text/event-stream"]);
  }

  onRequestChunk(chunk) {
    this.mask(chunk);
  }

  onResponseChunk(chunk) {
    this.mask(chunk);
  }

  onResponseEvent(event) {
    const data = event.data();
    if (data === undefined) return this.checkOther(event);
    const parts = latin1(utf8.encode(data)).split(this.word);
    if (parts.length > 1) event.setData(utf8.decode(bytes(parts.join(this.stars))));
  }

  // A comment, or an event that is not UTF-8: that may have the word, too, and goes no further.
  checkOther(event) {
    try {
      utf8.decode(event.bytes());
    } catch {
      event.drop();
    }
  }

  mask(chunk) {
    const parts = latin1(chunk.bytes()).split(this.word);
    const last = parts.pop();
    // The network may have split the word: what may be its beginning is kept back until the next piece comes.
    let tail = chunk.isLast() ? 0 : Math.min(last.length, this.word.length - 1);
    while (!this.word.startsWith(last.slice(last.length - tail))) tail--;
    chunk.replace(bytes([...parts, last.slice(0, last.length - tail)].join(this.stars)));
    chunk.hold(tail);
  }
}
