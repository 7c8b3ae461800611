"""The convolutional front end against its plain references and fairseq's."""

import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel

from dinosr_plugin.modules.fast import extractor as extractor_module
from dinosr_plugin.modules.fast.extractor import (
    ConvExtractor,
    NormGeluConvolution,
    extractor_reference,
    norm_gelu_convolution_reference,
    portions,
)

# kernels of one, two and four strides, and one shorter than its stride
LAYERS = [(24, 10, 5), (24, 3, 2), (16, 2, 2), (16, 5, 3), (24, 4, 1), (24, 2, 4)]
PORTIONS = [1, 2000, 20000, 2**21]  # a frame, a part of a row, two rows of the later layers, everything


def pair(norm: str, bias: bool = False):
    """fairseq's front end and ours, from the same seed."""
    torch.manual_seed(0)
    theirs = ConvFeatureExtractionModel(LAYERS, mode=norm, conv_bias=bias)
    torch.manual_seed(0)
    return theirs, ConvExtractor(LAYERS, norm, bias)


def output_and_gradients(function, module, source):
    """Frames (B, F, C), and the gradients of the source and all parameters, of a sum with different weights."""
    module.zero_grad()
    source = source.clone().requires_grad_()
    frames = function(source)
    (frames * torch.linspace(-1, 1, frames.numel(), dtype=frames.dtype).view(frames.shape)).sum().backward()
    return frames.detach(), [source.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("norm", ["layer_norm", "default"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("portion", PORTIONS)
def test_equals_fairseqs_front_end(norm, bias, portion, monkeypatch, unwritten_memory_is_nan):
    monkeypatch.setattr(extractor_module, "PORTION_ON_CPU", portion)
    theirs, ours = pair(norm, bias)
    assert [(name, value.shape) for name, value in ours.state_dict().items()] == [
        (name, value.shape) for name, value in theirs.state_dict().items()
    ]
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    source = torch.randn(3, 2003, generator=torch.Generator().manual_seed(1))
    expected, their_gradients = output_and_gradients(lambda wave: theirs(wave).transpose(1, 2), theirs, source)
    output, gradients = output_and_gradients(ours, ours, source)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    for name, fast, plain in zip(["source", *dict(ours.named_parameters())], gradients, their_gradients):
        # max(..., 1): the gradient of a bias before group norm is 0
        assert (fast - plain).abs().max() < 1e-5 * max(plain.abs().max(), 1), name


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("portion", PORTIONS)
def test_equals_the_reference(bias, portion, monkeypatch, unwritten_memory_is_nan):
    """In float64. Group norm is computed in float32 in any precision: see the test against fairseq's."""
    monkeypatch.setattr(extractor_module, "PORTION_ON_CPU", portion)
    module = pair("layer_norm", bias)[1].double()
    source = torch.randn(3, 2003, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected, plain_gradients = output_and_gradients(lambda wave: extractor_reference(module, wave), module, source)
    output, gradients = output_and_gradients(module, module, source)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-11)
    for name, fast, plain in zip(["source", *dict(module.named_parameters())], gradients, plain_gradients):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("norm", ["layer_norm", "default"])
def test_one_layer_equals_the_reference(norm):
    torch.manual_seed(0)
    module = ConvExtractor([(8, 10, 5)], norm, bias=True)
    source = torch.randn(2, 103)
    torch.testing.assert_close(module(source), extractor_reference(module, source))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("portion", [1, 60, 2**21])
def test_a_layer_equals_the_reference_and_passes_gradcheck(first, norm, portion, monkeypatch, unwritten_memory_is_nan):
    """Without and with the first convolution (windows of 6 samples) and LayerNorm; float64."""
    monkeypatch.setattr(extractor_module, "PORTION_ON_CPU", portion)
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)

    x = random(2, 9, 6 if first else 4)
    parameters = [random(4, 6), random(4)] if first else [None, None]
    parameters += [random(4), random(4)] if norm else [None, None]
    arguments = (x, *parameters, 1e-5, random(3, 4, 3), 2)
    torch.testing.assert_close(NormGeluConvolution.apply(*arguments), norm_gelu_convolution_reference(*arguments))
    assert torch.autograd.gradcheck(NormGeluConvolution.apply, arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_normalises_in_float32(dtype):
    """Output and gradients are as close to those of float32 as fairseq's.

    There are enough frames for sums in half precision to be wrong.
    """
    theirs, ours = pair("layer_norm")
    source = (100 * torch.randn(2, 40003, generator=torch.Generator().manual_seed(1))).to(dtype)
    exact = ours(source.float())
    exact.pow(2).mean().backward()
    exact_gradients = [p.grad for p in ours.parameters()]
    ours.zero_grad()
    errors, gradients = {}, {}
    for name, module in (("theirs", theirs.to(dtype)), ("ours", ours.to(dtype))):
        frames = module(source)
        assert frames.dtype == dtype
        errors[name] = ((frames if name == "ours" else frames.transpose(1, 2)).float() - exact).abs().mean().item()
        frames.float().pow(2).mean().mul(1000).backward()  # float16 cannot represent smaller gradients
        assert all(p.grad.dtype == dtype for p in module.parameters())
        gradients[name] = [
            ((p.grad.float() / 1000 - value).norm() / value.norm()).item()
            for p, value in zip(module.parameters(), exact_gradients)
        ]
    assert errors["ours"] < 1.25 * errors["theirs"]  # a sum of two products is rounded twice
    assert all(mine < 2 * other + 0.005 for mine, other in zip(gradients["ours"], gradients["theirs"])), gradients


def test_saves_one_tensor_for_each_layer():
    """For the backward pass: the output of each convolution but the first, and the last layer's LayerNorm (short)."""
    extractor, saved = ConvExtractor([(32, 10, 5)] + [(32, 3, 2)] * 4, "layer_norm", False), {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in extractor.parameters()}
    source = torch.randn(2, 16000)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        frames = extractor(source)
    layers = 4 * 2 * 32 * sum([1599, 799, 399, 199])
    saved_bytes = sum(size for pointer, size in saved.items() if pointer not in parameters)
    assert saved_bytes <= layers + source.nbytes + 3 * frames.nbytes
    assert frames.shape == (2, 199, 32)


@pytest.mark.parametrize("rows, length", [(1, 9), (5, 9), (5, 100), (3, 25599)])
def test_portions_cover_all_frames_and_are_not_too_large(rows, length, monkeypatch):
    monkeypatch.setattr(extractor_module, "PORTION_ON_CPU", 400)
    x, weight = torch.empty(rows, length, 1), torch.empty(1, 8, 3)
    count = torch.zeros(rows, (length - 3) // 2 + 1)
    for inputs, outputs in portions(x, weight, 2):
        count[outputs] += 1
        part = x[inputs]
        assert (part.size(1) - 3) // 2 + 1 == count[outputs].size(1) and len(part) == len(count[outputs])
        assert part.numel() * 8 <= 400 + 8 * len(part)  # plus the frame by which a kernel of 3 exceeds its stride
    assert (count == 1).all()


def test_a_sound_shorter_than_the_kernel_is_an_error():
    with pytest.raises(ValueError, match="the sound is too short: 1 frames, .* needs 3"):
        ConvExtractor([(4, 10, 5), (4, 3, 2)], "layer_norm", False)(torch.randn(1, 12))
