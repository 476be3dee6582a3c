// Sets a request header to a value of the config.
import { check, type Filter, type Request } from "sluice-filter";

export default class Stamp implements Filter {
  private readonly config;

  constructor(config: unknown) {
    this.config = check(config, { header: "string", value: "string" });
  }

  onRequest(request: Request) {
    request.setHeader(this.config.header, this.config.value);
  }
}
