import pytest
import torch


@pytest.fixture
def unwritten_memory_is_nan():
    """torch fills new memory with NaN when it is to be deterministic."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
