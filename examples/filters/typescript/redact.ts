// Hides members of JSON response bodies, by their names.
import { check, type Filter, Problem, type Response, type Setup, type Verdict } from "sluice-filter";

export default class Redact implements Filter {
  private readonly fields: Set<string>;

  constructor(config: unknown, setup: Setup) {
    this.fields = new Set(check(config, { fields: ["string"] }).fields);
    setup.responseBody(1 << 20, ["application/json"]);
  }

  onResponseBody(response: Response): Verdict {
    let body: unknown;
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
  private hide(body: unknown): void {
    const left = [body];
    while (left.length > 0) {
      const value = left.pop();
      if (typeof value !== "object" || value === null) continue;
      const members = value as Record<string, unknown>;
      for (const [name, member] of Object.entries(members)) {
        if (!Array.isArray(value) && this.fields.has(name)) members[name] = "[redacted]";
        else left.push(member);
      }
    }
  }
}
