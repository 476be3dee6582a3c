"""What the build warns of."""

import difflib
import inspect

from ._entry import HOOKS, hooks_of


def findings(filter_class):
    """What is likely a mistake in the class."""
    for name in dir(filter_class):
        if name.startswith("on_") and name not in HOOKS and callable(getattr(filter_class, name)):
            near = difflib.get_close_matches(name, HOOKS, 1)
            yield f"no hook is called {name}, so the gateway will not call it" + (f": did you mean {near[0]}?" if near else "")
    for name in hooks_of(filter_class):
        given = () if HOOKS[name][0] is None else (None,)
        try:
            inspect.signature(getattr(filter_class, name)).bind(None, *given)
        except TypeError as error:
            yield f"{name} is called with self{' and one argument' if given else ''}: {error}"
