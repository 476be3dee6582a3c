"""Admits callers with an API key of the config, and says who they are."""

from sluice_filter import Filter, Problem, check, context, metrics


class ApiKey(Filter):
    def __init__(self, config, setup):
        self.keys = check(config, {"keys": {"*": {"name": str, "account": int}}})["keys"]

    def on_request(self, request):
        given = request.header("x-api-key")
        if given is None:
            return refuse("key-missing", "an API key is needed")
        key = self.keys.get(given)
        if key is None:
            return refuse("key-unknown", "the API key is not valid")
        context.set_consumer(key["name"])
        context.set("api-key.account", key["account"])


def refuse(reason, detail):
    metrics.count("refused", reason=reason)
    return Problem(401, "Unauthorized", detail, reason, {"www-authenticate": "ApiKey"})
