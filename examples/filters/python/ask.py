"""Asks a service who the caller is, for a few requests of each caller."""

from sluice_filter import Filter, Problem, check, http
from sluice_filter.limiter import Limit, take


class Ask(Filter):
    def __init__(self, config, setup):
        self.config = check(config, {"url": str, "amount": int})

    def on_request(self, request):
        caller = request.header("x-caller") or ""
        [standing] = take([Limit(caller[:100], self.config["amount"], window_ms=3_600_000)])
        if not standing.allowed:
            headers = {"retry-after": str(-(-standing.retry_after_ms // 1000))}
            return Problem(429, "Too Many Requests", reason="too-many", headers=headers)
        answer = http.send(http.Outgoing(self.config["url"], json={"caller": caller}), timeout_ms=5_000)
        if answer.status != 200:
            return Problem(403, "Forbidden", reason="unknown-caller")
        account = check(answer.json(), {"account": int})["account"]
        request.set_header("x-account", str(account))
