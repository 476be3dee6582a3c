// Hides members of JSON response bodies, by their names.
import { check, Problem } from "sluice-filter";

export default class Redact {
  constructor(config, setup) {
    this.fields = new Set(check(config, { fields: ["string"] }).fields);
    setup.responseBody(1 << 20, ["application/json"]);
  }

  onResponseBody(response) {
    let body;
    try {
      body = response.json();
    } catch (error) {
      if (!(error instanceof SyntaxError || error instanceof URIError)) throw error;
      return new Problem(502, "Bad Gateway", { detail: "the upstream's answer is not JSON", reason: "not-json" });
    }
    this.hide(body);
    response.setJson(body);
  }

  // Without recursion: an instance has a short stack, and the document is of somebody else.
  hide(body) {
    const left = [body];
    while (left.length > 0) {
      const value = left.pop();
      if (typeof value !== "object" || value === null) continue;
      for (const [name, member] of Object.entries(value)) {
        if (!Array.isArray(value) && this.fields.has(name)) value[name] = "[redacted]";
        else left.push(member);
      }
    }
  }
}
