"""The exports of a component, made of a filter's class."""

import json
import traceback

from componentize_py_types import Err
from wit_world.imports import log
from wit_world.imports.types import Verdict

from . import ConfigError, Filter, GatewayError, Problem, Request, Response, Route, Setup

HOOKS = {
    "on_request": (Request, True),
    "on_request_body": (Request, True),
    "select_upstream": (Route, False),
    "on_response": (Response, True),
    "on_response_body": (Response, True),
    "on_response_trailers": (Response, False),
    "on_complete": (None, False),
}
VERDICTS = {None: Verdict.CONTINUE, "continue": Verdict.CONTINUE, "respond": Verdict.RESPOND}


def hooks_of(filter_class):
    return [name for name in HOOKS if callable(getattr(filter_class, name, None))]


def filter_of(module):
    """The one filter that a module defines."""
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Filter) and value.__module__ == module.__name__]
    if len(found) != 1:
        raise TypeError(f"expected one subclass of Filter in the file, found {len(found)}")
    return found[0]


def describe(error):
    if isinstance(error, (GatewayError, ConfigError)):
        return str(error)
    return "".join(traceback.format_exception(error)).strip()


def exports(filter_class):
    """The classes that componentize-py looks for, by their names."""
    made = {}

    class Configure:
        def configure(self, config):
            try:
                made["filter"] = filter_class(json.loads(config), Setup())
            except ConfigError as error:
                message = str(error)
            except Exception as error:
                message = f": {describe(error)}"
            else:
                return
            raise Err(message)

    found = {"Configure": Configure}
    for name in hooks_of(filter_class):
        found["".join(part.title() for part in name.split("_"))] = _hook(name, made)
    return found


def _hook(name, made):
    about, answers = HOOKS[name]
    given = () if about is None else (about(),)

    def call(self):
        try:
            try:
                answer = getattr(made["filter"], name)(*given)
            except Problem as problem:
                if not answers:
                    raise
                answer = problem
            if not answers:
                return None
            if isinstance(answer, Problem):
                answer.draft()
                answer = "respond"
            return VERDICTS[answer]
        except Exception as error:
            log.fail(describe(error))
            return VERDICTS[None] if answers else None

    return type(name, (), {name: call})
