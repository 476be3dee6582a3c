// Sets a request header to a value of the config.
import { check } from "sluice-filter";

export default class Stamp {
  constructor(config) {
    Object.assign(this, check(config, { header: "string", value: "string" }));
  }

  onRequest(request) {
    request.setHeader(this.header, this.value);
  }
}
