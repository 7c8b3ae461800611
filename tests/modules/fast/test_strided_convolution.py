"""The convolution as matrix products against torch's."""

import pytest
import torch

from dinosr_plugin.modules.fast.strided_convolution import (
    as_matrices,
    as_weight,
    convolve,
    input_gradient,
    matrix_gradients,
)


@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (1, 1), (1, 3), (2, 3), (7, 2), (4, 3), (3, 1)])
@pytest.mark.parametrize("length", [7, 8, 9, 20])
def test_convolution_of_any_kernel_and_stride(kernel, stride, length, unwritten_memory_is_nan):
    generator = torch.Generator().manual_seed(kernel)
    x = torch.randn(2, length, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(4, 5, kernel, dtype=torch.float64, generator=generator, requires_grad=True)
    expected = torch.nn.functional.conv1d(x.transpose(1, 2), weight, stride=stride).transpose(1, 2)
    matrices = as_matrices(weight.detach(), stride)
    assert torch.equal(as_weight(matrices, 5), weight)
    output = expected.new_empty(expected.shape)
    convolve(x.detach(), matrices, stride, output)
    torch.testing.assert_close(output, expected)
    grad = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    expected.backward(grad)
    torch.testing.assert_close(input_gradient(grad, matrices, stride, x.detach()), x.grad)
    torch.testing.assert_close(as_weight(matrix_gradients(grad, x.detach(), matrices, stride), 5), weight.grad)
