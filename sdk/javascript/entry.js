// The exports of a component, made of a filter's class.
import * as interest from "sluice:filter/interest@0.1.1";
import { fail } from "sluice:filter/log@0.1.1";

import { checked, describe } from "./errors.js";
import { parseJson } from "./json.js";
import { Problem, Request, Response, Route } from "./message.js";
import { shown } from "./signatures.js";

/** The hooks by the names of methods: what they are given, and whether they answer a verdict. Those of pieces are given one of `Chunk` and `Event`. */
const hooks = ({ Chunk, Event }) => ({
  onRequest: [Request, true],
  onRequestBody: [Request, true],
  selectUpstream: [Route, false],
  onResponse: [Response, true],
  onResponseBody: [Response, true],
  onResponseTrailers: [Response, false],
  onComplete: [Request, false],
  onRequestChunk: [Chunk, false],
  onResponseChunk: [Chunk, false],
  onResponseEvent: [Event, false],
});

const bodies = (name, f) => {
  const ask = checked(`interest.${name}`, f);
  return (maxBytes, types = []) => ask(maxBytes, types);
};
const streams = (name, f) => {
  const ask = checked(`interest.${name}`, f);
  return (types = []) => ask(types);
};
const setHook = checked("interest.hook", interest.hook);
const needs = checked("interest.needs", interest.needs);
const setup = {
  requestBody: bodies("request-body", interest.requestBody),
  responseBody: bodies("response-body", interest.responseBody),
  requestChunks: streams("request-chunks", interest.requestChunks),
  responseChunks: streams("response-chunks", interest.responseChunks),
  responseEvents: streams("response-events", interest.responseEvents),
  // By the name of the interface, or by that of the method.
  hook: (name, wanted) => setHook(name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`), wanted),
  needs: (grants) => needs(JSON.stringify(grants)),
};

/** What the gateway gets of what a hook has returned. */
function verdict(hook, answer) {
  if (answer instanceof Problem) {
    answer.draft();
    return "respond";
  }
  if (answer === undefined || answer === null || answer === "continue" || answer === "respond") return answer;
  throw new TypeError(`${hook} returned ${shown(answer)}: expected nothing, "continue", "respond" or a Problem`);
}

/** `pieces` is the module `chunk.js`, where the filter has a hook of pieces: others need not import the interface. */
export function component(Filter, pieces = {}) {
  let filter;
  const exports = {
    configure: {
      configure(text) {
        try {
          filter = new Filter(parseJson(text), setup);
        } catch (thrown) {
          throw thrown?.name === "ConfigError" ? thrown.message : `: ${describe(thrown)}`;
        }
      },
    },
  };
  if (Filter.describe !== undefined) exports.describe = { describe: () => JSON.stringify(Filter.describe) };
  for (const [name, [about, answers]] of Object.entries(hooks(pieces))) {
    exports[name] = {
      [name]() {
        let answer;
        try {
          try {
            answer = filter[name](about);
          } catch (thrown) {
            if (!answers || !(thrown instanceof Problem)) throw thrown;
            answer = thrown;
          }
          if (answers) answer = verdict(name, answer);
        } catch (thrown) {
          fail(describe(thrown));
          answer = undefined;
        }
        return answers ? answer ?? "continue" : undefined;
      },
    };
  }
  return exports;
}
