"""fairseq tasks; importing this package registers them."""

from . import finetuning, pretraining  # noqa: F401
