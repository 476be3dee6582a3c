"""The exports of a component, made of a filter's class."""

import json
import traceback

from componentize_py_types import Err  # type: ignore
from wit_world.imports import log  # type: ignore
from wit_world.imports.types import Verdict  # type: ignore

from . import ConfigError, Filter, GatewayError, Problem, Request, Response, Route, Setup
from ._arguments import shown
from ._text import sendable

# What each hook is given, and whether it answers a verdict.
HOOKS = {
    "on_request": (Request, True),
    "on_request_body": (Request, True),
    "select_upstream": (Route, False),
    "on_response": (Response, True),
    "on_response_body": (Response, True),
    "on_response_trailers": (Response, False),
    "on_complete": (None, False),
    # Classes of the module `chunk`, which a component has only if its filter has one of these hooks.
    "on_request_chunk": ("Chunk", False),
    "on_response_chunk": ("Chunk", False),
    "on_response_event": ("Event", False),
}
VERDICTS = {None: Verdict.CONTINUE, "continue": Verdict.CONTINUE, "respond": Verdict.RESPOND}


def hooks_of(filter_class):
    return [name for name in HOOKS if callable(getattr(filter_class, name, None))]


def given_to(name):
    """The arguments of a hook."""
    about = HOOKS[name][0]
    if isinstance(about, str):
        from . import chunk

        about = getattr(chunk, about)
    return () if about is None else (about(),)


def filter_of(module):
    """The one filter that a module defines."""
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Filter) and value.__module__ == module.__name__]
    if len(found) != 1:
        raise TypeError(f"expected one subclass of Filter in the file, found {len(found)}")
    return found[0]


def describe(error):
    """What the gateway's log gets of an exception: with the places in the filter's own code."""
    return sendable(_described(error))


def _described(error):
    if isinstance(error, ConfigError):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/sluice_filter/" not in frame.filename]
    if isinstance(error, GatewayError):
        return f"{error} ({frames[-1].filename.rpartition('/')[2]}, line {frames[-1].lineno})" if frames else str(error)
    called = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
    return "".join([*called, *traceback.format_exception_only(error)]).strip()


def exports(filter_class):
    """The classes that componentize-py looks for, by their names."""
    made = {}

    class Configure:
        def configure(self, config):
            try:
                made["filter"] = filter_class(json.loads(config), Setup())
            except ConfigError as error:
                message = str(error)
            except BaseException as error:
                message = f": {describe(error)}"
            else:
                return
            raise Err(message)

    found = {"Configure": Configure}
    if hasattr(filter_class, "describe"):
        text = json.dumps(filter_class.describe)
        found["Describe"] = type("Describe", (), {"describe": lambda self: text})
    for name in hooks_of(filter_class):
        found["".join(part.title() for part in name.split("_"))] = _hook(name, made)
    return found


def _hook(name, made):
    given, answers = given_to(name), HOOKS[name][1]

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
            if not (answer is None or isinstance(answer, str)) or answer not in VERDICTS:
                raise TypeError(f"{name} returned {shown(answer)}: expected None, \"respond\" or a Problem")
            return VERDICTS[answer]
        except BaseException as error:
            log.fail(describe(error))
            return VERDICTS[None] if answers else None

    return type(name, (), {name: call})
