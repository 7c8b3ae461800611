"""How fairseq's and torch's functions are replaced."""

import functools
from collections.abc import Callable


def wrap_once(owner, name: str, make: Callable[[Callable], Callable]):
    """Replace ``owner.name`` by ``make`` of it; a second call with the same ``make`` changes nothing."""
    previous = getattr(owner, name)
    done, own = getattr(previous, "dinosr_wrappers", ()), f"{make.__module__}.{make.__qualname__}"
    if own not in done:
        wrapper = functools.wraps(previous)(make(previous))
        wrapper.dinosr_wrappers = (*done, own)
        setattr(owner, name, wrapper)
