"""Pictures of what a model learned; one kind of picture per module."""

from .checkpoints import plot_curves
from .code_by_phone import plot_code_by_phone
from .summary import plot_summary

__all__ = ["plot_code_by_phone", "plot_curves", "plot_summary"]
