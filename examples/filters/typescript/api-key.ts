// Admits callers with an API key of the config, and says who they are.
import { check, context, type Filter, metrics, Problem, type Request, type Verdict } from "sluice-filter";

interface Key {
  name: string;
  account: number;
}

export default class ApiKey implements Filter {
  private readonly keys: Map<string, Key>;

  constructor(config: unknown) {
    const { keys } = check(config, { keys: { "*": { name: "string", account: "integer" } } });
    this.keys = new Map(Object.entries(keys));
  }

  onRequest(request: Request): Verdict {
    const given = request.header("x-api-key");
    if (given === undefined) return refuse("key-missing", "an API key is needed");
    const key = this.keys.get(given);
    if (!key) return refuse("key-unknown", "the API key is not valid");
    context.setConsumer(key.name);
    context.set("api-key.account", key.account);
  }
}

function refuse(reason: string, detail: string): Problem {
  metrics.count("refused", { reason });
  return new Problem(401, "Unauthorized", { detail, reason, headers: { "www-authenticate": "ApiKey" } });
}
