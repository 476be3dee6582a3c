"""Sets a request header to a value of the config."""

from sluice_filter import Filter, check


class Stamp(Filter):
    def __init__(self, config, setup):
        self.config = check(config, {"header": str, "value": str})

    def on_request(self, request):
        request.set_header(self.config["header"], self.config["value"])
