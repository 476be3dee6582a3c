"""`python -m unittest`: without a gateway."""

import importlib
import json
import unittest

import redact
import stamp
from sluice_filter import ConfigError
from sluice_filter.testing import Exchange, make


class Filters(unittest.TestCase):
    def test_a_stamp_is_set(self):
        exchange = Exchange()
        filter = make(stamp.Stamp, {"header": "x-stamp", "value": "grün"})
        self.assertIsNone(exchange.call(filter.on_request))
        self.assertEqual(exchange.request_headers["x-stamp"], "grün")

    def test_a_wrong_config_names_its_key(self):
        with self.assertRaisesRegex(ConfigError, "value: expected a text"):
            make(stamp.Stamp, {"header": "x-stamp", "value": 1})

    def test_members_are_hidden(self):
        exchange = Exchange(response_body=b'{"password":"x","n":12345678901234567890}')
        exchange.call(make(redact.Redact, {"fields": ["password"]}).on_response_body)
        self.assertEqual(json.loads(exchange.response_body), {"password": "[redacted]", "n": 12345678901234567890})

    def test_a_key_says_who_the_caller_is(self):
        filter = make(importlib.import_module("api-key").ApiKey, {"keys": {"k1": {"name": "ann", "account": 7}}})
        known = Exchange(request_headers={"x-api-key": "k1"})
        known.call(filter.on_request)
        self.assertEqual(known.consumer, "ann")
        refused = Exchange()
        refused.call(filter.on_request)
        self.assertEqual((refused.status, refused.reason), (401, "key-missing"))
        self.assertEqual(refused.counted, {("refused", ("reason", "key-missing")): 1})


if __name__ == "__main__":
    unittest.main()
