"""How fairseq's and torch's functions are replaced."""

import functools
from typing import Callable


def wrap_once(owner, name: str, make: Callable[[Callable], Callable]):
    """Replace ``owner.name`` by ``make`` of it; a second call changes nothing."""
    previous = getattr(owner, name)
    if not getattr(previous, "is_dinosr_wrapper", False):
        wrapper = functools.wraps(previous)(make(previous))
        wrapper.is_dinosr_wrapper = True
        setattr(owner, name, wrapper)
