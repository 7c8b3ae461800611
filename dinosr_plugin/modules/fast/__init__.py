"""Hand-written autograd: functions that save memory and time by recomputing values in the backward pass.

Each file contains plain references (``*_reference``), a few lines of ordinary PyTorch, which define what the fast
version computes; tests compare values and all gradients. The seconds and bytes in the docstrings are those of a
training step of the base model on two CPU cores, from tests/benchmarks/README.md.
"""
