"""The package for Python, beside what its examples test: `PYTHONPATH=sdk/python python -m unittest tests/packages/test_package.py`."""

import unittest

import sluice_filter.testing
from sluice_filter import Filter, Problem, Request, _arguments, _entry, _findings, _release, concurrency, consumers, context, http, limiter, log
from sluice_filter._json import loads
from sluice_filter.testing import Exchange, make


class Arguments(unittest.TestCase):
    def test_a_wrong_type_names_the_argument(self):
        class Wrong(Filter):
            def on_request(self, request: Request):
                request.set_header("x-a", 1)

        with self.assertRaisesRegex(TypeError, r"request.set-header: argument 2: expected a text, got 1 \(int\)"):
            Exchange().call(make(Wrong, {}).on_request)

    def test_a_wrong_type_in_a_record_names_the_member(self):
        Limit, Outgoing, Place = limiter.Limit, http.Outgoing, concurrency.Place
        for call, said in [
            (lambda: http.send(Outgoing(None), 100), r"http.send: requests\[0\].url: expected a text, got None"),
            (lambda: http.send_all(["http://a", Outgoing("http://a", method=1)], 100), r"requests\[1\].method: expected a text"),
            (lambda: http.send(None, 100), r"requests\[0\]: expected Outgoing, got None"),
            (lambda: http.send_all("http://a", 100), r"requests: expected a list"),
            (lambda: http.send(Outgoing("http://a", headers={"a": ["b", 1]}), 100), r"headers: expected texts, got {'a': 1}"),
            (lambda: http.send(Outgoing("http://a", body=5), 100), r"body: expected bytes or a text, got 5"),
            (lambda: limiter.take([Limit(None, 1, 1)]), r"limiter.take: limits\[0\].key: expected a text, got None"),
            (lambda: limiter.take([Limit("a", 1, 1), Limit("a", 1.5, 1)]), r"limits\[1\].amount: expected a whole number from 0"),
            (lambda: limiter.take([Limit("a", 1, -1)]), r"limits\[0\].window_ms: expected a whole number from 0"),
            (lambda: limiter.take([Limit("a", 1, 1, burst=1 << 64)]), r"limits\[0\].burst: expected a whole number from 0"),
            (lambda: limiter.take(None), r"limits: expected a list"),
            (lambda: concurrency.enter([Place("a", 1 << 32)]), r"concurrency.enter: places\[0\].amount: expected a whole number from 0"),
            (lambda: concurrency.enter(["a"]), r"places\[0\]: expected Place, got 'a'"),
            (lambda: consumers.TokenVerifier([1]), r"consumers.token-verifier: algorithms: expected a list of texts"),
            (lambda: concurrency.enter([], [Limit(1, 1, 1)]), r"concurrency.enter: limits\[0\].key: expected a text"),
        ]:
            with self.assertRaisesRegex(TypeError, said):
                call()

    def test_a_half_of_a_surrogate_pair_becomes_another_character(self):
        class Half(Filter):
            def on_request_body(self, request: Request):
                text = request.json()["a"]
                request.set_header("x-a", text)
                log.warn(text)
                limiter.take([limiter.Limit(text, 1, 1)])
                context.set("texts", [text])
                request.set_json({"a": text})

        exchange = Exchange(request_body=b'{"a":"\\ud800b\xf0\x9f\x98\x80"}')
        before = exchange.request_body
        exchange.call(make(Half, {}).on_request_body)
        said = "\ufffdb\U0001f600"
        self.assertEqual(exchange.request_headers["x-a"], said)
        self.assertEqual(exchange.lines, [f"warn: {said}"])
        self.assertEqual(list(exchange.taken), [said])
        self.assertEqual(exchange.context["texts"].value, [said])
        self.assertEqual(exchange.request_body, before, "JSON can write it")
        self.assertEqual(_entry.describe(ValueError("\ud800")), "ValueError: \ufffd")

    def test_numbers_have_the_bits_of_their_call(self):
        # As the bindings have them.
        def read(offset: int, length: int) -> bytes: ...

        def some(length: int) -> bytes: ...

        for call, function, values, fits in [
            ("chunk.read", read, [0, 1 << 32], True),
            ("request.body", read, [0, (1 << 64) - 1], True),
            ("chunk.read", read, [0, 1 << 64], False),
            ("random.bytes", some, [1 << 32], False),
            ("random.bytes", some, [(1 << 32) - 1], True),
        ]:
            known = _arguments.parameters(function, call)
            if fits:
                _arguments.check(call, known, values)
            else:
                with self.assertRaisesRegex(TypeError, f"{call}: length: expected a whole number"):
                    _arguments.check(call, known, values)

    def test_headers_of_a_problem_may_be_numbers(self):
        class Late(Filter):
            def on_request(self, request: Request):
                return Problem(429, "Too Many Requests", headers={"retry-after": 4}, type="urn:late", members={"limit": 3})

        exchange = Exchange()
        exchange.call(make(Late, {}).on_request)
        self.assertEqual(exchange.response_headers["retry-after"], "4")
        self.assertIn(b'"limit":3,"type":"urn:late"', exchange.response_body)


class Build(unittest.TestCase):
    def test_methods_that_are_no_hooks_are_found(self):
        class Wrong(Filter):
            def on_requst(self, request): ...

            def on_response(self): ...

            def on_complete(self): ...

        unknown, arity = _findings.findings(Wrong)
        self.assertIn("did you mean on_request?", unknown)
        self.assertIn("on_response is called with self and one argument", arity)
        self.assertEqual(_entry.hooks_of(Wrong), ["on_response", "on_complete"])


class Json(unittest.TestCase):
    def test_what_is_nested_too_deep_is_refused(self):
        self.assertEqual(loads("[" * 256 + "]" * 256)[0][0], loads("[" * 254 + "]" * 254))
        for deep in ["[" * 257, '{"a":' * 300, '["]]]]",' + "[" * 256]:
            with self.assertRaisesRegex(ValueError, "deeper than 256"):
                loads(deep)
        # Beside each other, or in a text.
        self.assertEqual(len(loads("[" + "[]," * 500 + "[]]")), 501)
        self.assertEqual(loads('"' + "[" * 500 + '"'), "[" * 500)

    def test_a_text_without_an_end_takes_no_longer_than_others(self):
        for text in ["[" * 300 + '"' + '\\"' * 300_000, "[" * 300 + '"' + "a" * 300_000 + "\\"]:
            with self.assertRaises(ValueError):
                loads(text)


def section(kind, content):
    return bytes([kind]) + _release._leb(len(content)) + content


class Release(unittest.TestCase):
    """The smallest runtime: `pop_list` calls an import, `dealloc_bytes` does nothing."""

    TYPES = section(1, b"\x02" + b"\x60\x03\x7f\x7f\x7f\x01\x7f" + b"\x60\x05\x7f\x7f\x7f\x7f\x7f\x00")
    IMPORTS = section(2, b"\x01\x03env\x03pop\x00\x00")
    FUNCTIONS = section(3, b"\x02\x00\x01")
    EXPORTS = section(7, b"\x02" + b"\x12wit_dylib_pop_list\x00\x01" + b"\x17wit_dylib_dealloc_bytes\x00\x02")
    CODE = section(10, b"\x02" + b"\x0a\x00\x20\x00\x20\x01\x20\x02\x10\x00\x0b" + b"\x02\x00\x0b")
    RUNTIME = _release.MODULE + TYPES + IMPORTS + FUNCTIONS + EXPORTS + CODE

    def test_the_runtime_gets_a_function_in_place_of_another(self):
        other = section(1, _release.MODULE)
        before = _release.COMPONENT + other + section(1, self.RUNTIME) + section(0, b"\x01xname")
        parts = list(_release._sections(_release.mend(before)))
        self.assertEqual([kind for kind, _ in parts], [1, 1, 0])
        self.assertEqual(parts[0][1], _release.MODULE)
        sections = dict(_release._sections(parts[1][1]))
        self.assertEqual(sections[3], b"\x03\x00\x01\x00")
        exports = {name: index for name, _, index, _ in _release._exports(sections[7])}
        self.assertEqual(exports, {_release.POP_LIST: 3, _release.DEALLOC_BYTES: 2})
        self.assertEqual(sections[10][0], 3)
        self.assertIn(b"\x10\x01", sections[10], "it calls the one that it stands in for")

    def test_anything_else_stays_as_it_is(self):
        for other in [b"", self.RUNTIME, _release.COMPONENT + section(1, self.RUNTIME) * 2, _release.COMPONENT + section(1, _release.MODULE)]:
            self.assertEqual(_release.mend(other), other)


if __name__ == "__main__":
    unittest.main()
