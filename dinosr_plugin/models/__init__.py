from . import dinosr  # noqa: F401
