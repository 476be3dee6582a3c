"""Asks a service who the caller is, for a few requests of each caller."""

from sluice_filter import ConfigError, Filter, Problem, check, http
from sluice_filter.limiter import Limit, take


class Ask(Filter):
    def __init__(self, config, setup):
        self.config = check(config, {"url": str, "amount": int})
        if self.config["amount"] < 1:
            raise ConfigError("amount", "expected at least 1")

    def on_request(self, request):
        caller = request.header("x-caller") or ""
        if len(caller.encode()) > 100:
            return Problem(403, "Forbidden", "the name of the caller is too long", "unknown-caller")
        [standing] = take([Limit(caller, self.config["amount"], window_ms=3_600_000)])
        if not standing.allowed:
            headers = {"retry-after": str(-(-standing.retry_after_ms // 1000))}
            return Problem(429, "Too Many Requests", reason="too-many", headers=headers)
        answer = http.send(http.Outgoing(self.config["url"], json={"caller": caller}), timeout_ms=5_000)
        if answer.status != 200:
            return Problem(403, "Forbidden", reason="unknown-caller")
        account = check(answer.json(), {"account": int})["account"]
        if account < 0:
            raise ValueError("the service names no account")
        request.set_header("x-account", str(account))
