"""`python -m unittest`: without a gateway."""

import importlib
import json
import unittest

import ask
import mask
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

    def test_a_word_is_masked_wherever_it_is_split(self):
        filter, text = make(mask.Mask, {"word": "sécret"}), "sésécret, sécre".encode()
        for at in range(len(text) + 1):
            sent = Exchange().chunks(filter.on_response_chunk, [text[:at], text[at:]])
            self.assertEqual(b"".join(sent).decode(), "sé*******, sécre")

    def test_events_get_other_data_and_keep_the_rest(self):
        exchange = Exchange(response_headers={"content-type": "text/event-stream"})
        hook = make(mask.Mask, {"word": "secret"}).on_response_event
        sent = exchange.events(hook, "id: 7\ndata: a secret\n\n: alive\n\n")
        self.assertEqual(sent, [b"id: 7\ndata: a ******\n\n", b": alive\n\n", b""])
        sent = exchange.events(hook, b"data: \xffsecret\n\ndata: end\n\n")
        self.assertEqual(sent, [b"", b"data: end\n\n", b""], "what is not UTF-8 goes no further")

    def test_a_service_says_who_the_caller_is_until_there_were_too_many_requests(self):
        def who(method, path, headers, body):
            self.assertEqual((method, path, json.loads(body)), ("POST", "/ask", {"caller": "ann"}))
            return 200, {}, '{"account":7}'

        filter = make(ask.Ask, {"url": "https://who.internal/ask", "amount": 1})
        exchange = Exchange(request_headers={"x-caller": "ann"}, services={"https://who.internal": who})
        self.assertIsNone(exchange.call(filter.on_request))
        self.assertEqual(exchange.request_headers["x-account"], "7")
        exchange.call(filter.on_request)
        self.assertEqual((exchange.status, exchange.response_headers["retry-after"]), (429, "3600"))

    def test_a_long_name_of_a_caller_is_refused_and_an_answer_without_an_account_is_an_error(self):
        filter = make(ask.Ask, {"url": "https://who.internal/ask", "amount": 9})
        long = Exchange(request_headers={"x-caller": "é" * 51})
        long.call(filter.on_request)
        self.assertEqual((long.status, long.reason), (403, "unknown-caller"))
        for answer in ["{}", '{"account":-1}', '{"account":"7"}']:
            who = lambda *request: (200, {}, answer)
            exchange = Exchange(request_headers={"x-caller": "é" * 50}, services={"https://who.internal": who})
            with self.assertRaisesRegex(Exception, "account"):
                exchange.call(filter.on_request)


if __name__ == "__main__":
    unittest.main()
