import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel

from dinosr_plugin.modules.fast import extractor as front_end
from dinosr_plugin.modules.fast.extractor import (
    ConvExtractor,
    as_matrices,
    as_weight,
    convolve,
    input_gradient,
    matrix_gradients,
    portions,
)

LAYERS = [
    (24, 10, 5),
    (24, 3, 2),
    (16, 2, 2),
    (16, 5, 3),
    (24, 4, 1),
    (24, 2, 4),
]  # kernels of one, two and four strides, and shorter than one


def pair(norm: str, bias: bool = False):
    """fairseq's front end and ours, from the same seed."""
    modules = []
    for make in (
        lambda: ConvFeatureExtractionModel(LAYERS, mode=norm, conv_bias=bias),
        lambda: ConvExtractor(LAYERS, norm, bias),
    ):
        torch.manual_seed(0)
        modules.append(make())
    return modules


@pytest.fixture
def unwritten_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("norm", ["layer_norm", "default"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "portion", [1, 2000, 20000, 2**21]
)  # a frame, some of a row, two rows of the later layers, all
def test_is_fairseqs_front_end(norm, bias, portion, monkeypatch, unwritten_memory_is_nan):
    monkeypatch.setattr(front_end, "ON_CPU", portion)
    theirs, ours = pair(norm, bias)
    assert {name: value.shape for name, value in theirs.state_dict().items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    source = torch.randn(3, 2003, generator=torch.Generator().manual_seed(1))
    outputs, gradients = [], []
    for module in (theirs, ours):
        heard = source.clone().requires_grad_()
        frames = module(heard)
        frames = frames if module is ours else frames.transpose(1, 2)
        (frames * torch.linspace(-1, 1, frames.numel()).view(frames.shape)).sum().backward()
        outputs.append(frames.detach())
        gradients.append([heard.grad] + [p.grad for p in module.parameters()])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-5)
    for name, mine, other in zip(["source"] + list(dict(ours.named_parameters())), gradients[1], gradients[0]):
        assert (mine - other).abs().max() < 1e-5 * max(other.abs().max(), 1), (
            name
        )  # that of a bias before group norm is 0


@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (1, 1), (1, 3), (2, 3), (7, 2), (4, 3), (3, 1)])
@pytest.mark.parametrize("length", [7, 8, 9, 20])
def test_convolution_of_any_kernel_and_stride(kernel, stride, length, unwritten_memory_is_nan):
    generator = torch.Generator().manual_seed(kernel)
    x = torch.randn(2, length, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(4, 5, kernel, dtype=torch.float64, generator=generator, requires_grad=True)
    expected = torch.nn.functional.conv1d(x.transpose(1, 2), weight, stride=stride).transpose(1, 2)
    matrices = as_matrices(weight.detach(), stride)
    assert torch.equal(as_weight(matrices, 5), weight)
    found = expected.new_empty(expected.shape)
    convolve(x.detach(), matrices, stride, found)
    torch.testing.assert_close(found, expected)
    grad = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    expected.backward(grad)
    torch.testing.assert_close(input_gradient(grad, matrices, stride, x.detach()), x.grad)
    torch.testing.assert_close(as_weight(matrix_gradients(grad, x.detach(), matrices, stride), 5), weight.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_normalises_in_float32(dtype):
    """Output and every gradient are as near to float32's as those of fairseq, on enough frames that sums in half precision would go astray."""
    theirs, ours = pair("layer_norm")
    source = (100 * torch.randn(2, 40003, generator=torch.Generator().manual_seed(1))).to(dtype)
    exact = ours(source.float())
    exact.pow(2).mean().backward()
    right = [p.grad for p in ours.parameters()]
    ours.zero_grad()
    errors, gradients = {}, {}
    for name, module in (("theirs", theirs.to(dtype)), ("ours", ours.to(dtype))):
        frames = module(source)
        assert frames.dtype == dtype
        errors[name] = ((frames if name == "ours" else frames.transpose(1, 2)).float() - exact).abs().mean().item()
        frames.float().pow(2).mean().mul(1000).backward()  # float16 has no smaller gradients
        assert all(p.grad.dtype == dtype for p in module.parameters())
        gradients[name] = [
            ((p.grad.float() / 1000 - value).norm() / value.norm()).item()
            for p, value in zip(module.parameters(), right)
        ]
    assert errors["ours"] < 1.25 * errors["theirs"]  # a sum of two products is rounded twice
    assert all(mine < 2 * other + 0.005 for mine, other in zip(gradients["ours"], gradients["theirs"])), gradients


def test_keeps_one_tensor_of_each_layer():
    """For the backward pass: what each convolution but the first gave (and the last layer's output of LayerNorm, of few frames)."""
    extractor, kept = ConvExtractor([(32, 10, 5)] + [(32, 3, 2)] * 4, "layer_norm", False), {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in extractor.parameters()}
    source = torch.randn(2, 16000)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        frames = extractor(source)
    layers = 4 * 2 * 32 * sum([1599, 799, 399, 199])
    assert (
        sum(size for pointer, size in kept.items() if pointer not in parameters)
        <= layers + source.nbytes + 3 * frames.nbytes
    )
    assert frames.shape == (2, 199, 32)


@pytest.mark.parametrize("rows, length", [(1, 9), (5, 9), (5, 100), (3, 25599)])
def test_portions_are_all_frames_and_no_larger_than_they_may(rows, length, monkeypatch):
    monkeypatch.setattr(front_end, "ON_CPU", 400)
    x, weight = torch.empty(rows, length, 1), torch.empty(1, 8, 3)
    seen = torch.zeros(rows, (length - 3) // 2 + 1)
    for given, made in portions(x, weight, 2):
        seen[made] += 1
        part = x[given]
        assert (part.size(1) - 3) // 2 + 1 == seen[made].size(1) and len(part) == len(seen[made])
        assert part.numel() * 8 <= 400 + 8 * len(part)  # and the frame that a kernel of 3 reaches beyond its stride
    assert (seen == 1).all()
