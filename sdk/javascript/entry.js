// The exports of a component, made of a filter's class.
import * as interest from "sluice:filter/interest@0.1.1";
import { fail } from "sluice:filter/log@0.1.1";

import { checked, describe } from "./errors.js";
import { parseJson } from "./json.js";
import { Problem, Request, Response, Route } from "./message.js";

/** The hooks by the names of methods: what they are given, and whether they answer a verdict. */
export const HOOKS = {
  onRequest: [Request, true],
  onRequestBody: [Request, true],
  selectUpstream: [Route, false],
  onResponse: [Response, true],
  onResponseBody: [Response, true],
  onResponseTrailers: [Response, false],
  onComplete: [Request, false],
};

const bodies = (name) => {
  const ask = checked(`interest.${name}`, name === "request-body" ? interest.requestBody : interest.responseBody);
  return (maxBytes, types = []) => ask(maxBytes, types);
};
const needs = checked("interest.needs", interest.needs);
const setup = {
  requestBody: bodies("request-body"),
  responseBody: bodies("response-body"),
  hook: checked("interest.hook", interest.hook),
  needs: (grants) => needs(JSON.stringify(grants)),
};

export function component(Filter) {
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
  for (const [name, [about, answers]] of Object.entries(HOOKS)) {
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
          if (answers && answer instanceof Problem) {
            answer.draft();
            answer = "respond";
          }
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
