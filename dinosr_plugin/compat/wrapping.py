"""How functions of fairseq and torch are replaced."""

import functools
from collections.abc import Callable


def wrap_once(owner, name: str, make: Callable[[Callable], Callable]):
    """Replace ``owner.name`` with ``make(owner.name)``; a second call with the same ``make`` changes nothing."""
    previous = getattr(owner, name)
    applied, key = getattr(previous, "dinosr_wrappers", ()), f"{make.__module__}.{make.__qualname__}"
    if key not in applied:
        wrapper = functools.wraps(previous)(make(previous))
        wrapper.dinosr_wrappers = (*applied, key)
        setattr(owner, name, wrapper)
