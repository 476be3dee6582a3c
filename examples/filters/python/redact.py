"""Hides members of JSON response bodies, by their names."""

from sluice_filter import Filter, Problem, check


class Redact(Filter):
    def __init__(self, config, setup):
        self.fields = set(check(config, {"fields": [str]})["fields"])
        setup.response_body(1 << 20, ["application/json"])

    def on_response_body(self, response):
        try:
            body = response.json()
        except ValueError:
            return Problem(502, "Bad Gateway", "the upstream's answer is not JSON", "not-json")
        response.set_json(self.hide(body))

    def hide(self, value):
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        if isinstance(value, dict):
            return {name: "[redacted]" if name in self.fields else self.hide(member) for name, member in value.items()}
        return value
