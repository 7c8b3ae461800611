"""The teacher is a float32 average of the student."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dinosr_plugin.models.encoder import Encoder, TrunkConfig
from dinosr_plugin.modules.ema import EmaTeacher, annealed_decay, exponential_decay


def network() -> nn.Module:
    return nn.ModuleDict({"layers": nn.Linear(4, 3), "pos_conv": nn.Linear(2, 2)})


def moved(student: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    return student


def test_average_formula_and_copied_prefixes():
    student = network()
    teacher = EmaTeacher(network(), student, copied=["pos_conv."])
    expected = {name: p.detach().clone() for name, p in student.named_parameters()}
    for decay in (0.9, 0.5, 0.999):
        moved(student)
        teacher.step_(student, decay)
        for name, p in student.named_parameters():
            copied = name.startswith("pos_conv.")
            expected[name] = p.detach().clone() if copied else decay * expected[name] + (1 - decay) * p.detach()
            assert_close(teacher.average()[name], expected[name], **({"rtol": 0, "atol": 0} if copied else {}))
            assert_close(dict(teacher.model.named_parameters())[name].data, teacher.average()[name], rtol=0, atol=0)


def test_first_teacher_is_a_copy_that_does_not_follow_by_itself():
    student = network()
    teacher = EmaTeacher(network(), student)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    moved(student)
    assert all(torch.equal(before[name], average) for name, average in teacher.average().items())


def test_belongs_to_no_optimizer_and_no_state_dict():
    student = network()
    student.teacher = EmaTeacher(network(), student)
    assert not list(student.teacher.parameters()) and not student.teacher.state_dict()
    assert len(list(student.parameters())) == 4
    assert not any(p.requires_grad for p in student.teacher.model.parameters())


def test_stays_in_eval_mode():
    student = network()
    student.teacher = EmaTeacher(nn.Sequential(nn.Dropout()), nn.Sequential(nn.Dropout()))
    student.train()
    assert not any(module.training for module in student.teacher.model.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_average_stays_float32_in_half_precision(dtype):
    """A decay of 0.9999 would not move 16-bit numbers; the model's weights are a rounded copy of the average."""
    student = network()
    student.teacher = teacher = EmaTeacher(network(), student)
    start = {name: value.clone() for name, value in teacher.average().items()}
    student.to(dtype)
    for _ in range(3):
        moved(student)
        teacher.step_(student, 0.9999)
    for name, average in teacher.average().items():
        assert average.dtype == torch.float32
        assert not torch.equal(average, start[name]) and (average - start[name]).abs().max() < 0.01
        weight = dict(teacher.model.named_parameters())[name]
        assert weight.dtype == dtype and torch.equal(weight.data, average.to(dtype))


def test_to_half_and_back_loses_nothing():
    teacher = EmaTeacher(network(), network())
    before = {name: value.clone() for name, value in teacher.average().items()}
    teacher.half().float()
    assert all(torch.equal(before[name], average) for name, average in teacher.average().items())
    student = moved(network())
    teacher.step_(student, 0.5)
    assert_close(teacher.model["layers"].weight.data, teacher.average()["layers.weight"], rtol=0, atol=0)


def test_a_deep_copy_is_a_teacher_of_its_own():
    teacher = EmaTeacher(network(), network())
    other = copy.deepcopy(teacher)
    before = teacher.average()["layers.weight"].clone()
    other.step_(moved(network()), 0.5)
    assert torch.equal(other.model["layers"].weight, other.average()["layers.weight"])
    assert torch.equal(teacher.model["layers"].weight, before) and not torch.equal(
        other.average()["layers.weight"], before
    )


def test_weight_normed_positional_convolution():
    """pos_conv_depth=1: the convolution's weight follows from weight_g and weight_v, which are what is taken over."""
    cfg = TrunkConfig(
        encoder_layers=1,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=16,
        encoder_attention_heads=2,
        conv_pos=8,
        conv_pos_groups=2,
        pos_conv_depth=1,
    )
    student = Encoder(cfg).eval()
    teacher = EmaTeacher(Encoder(cfg), student, copied=["pos_conv."])
    assert any(name.endswith("weight_g") for name in teacher.average())
    x = torch.randn(1, 20, 16)
    with torch.no_grad():
        moved(student)
        teacher.step_(student, 0.0)
        assert_close(teacher.model(x)[0], student(x)[0])


def test_restore():
    source, target = (EmaTeacher(network(), network()) for _ in range(2))
    target.restore_(source.average())
    for name, average in target.average().items():
        assert torch.equal(average, source.average()[name])
        assert average.data_ptr() != source.average()[name].data_ptr()
    assert torch.equal(target.model["layers"].weight, source.model["layers"].weight)


def test_restore_names_what_does_not_fit():
    teacher = EmaTeacher(network(), network())
    average = teacher.average()
    with pytest.raises(KeyError, match="layers.bias"):
        teacher.restore_({name: value for name, value in average.items() if name != "layers.bias"})
    with pytest.raises(RuntimeError, match="layers.bias"):  # a shape that would broadcast
        teacher.restore_({**average, "layers.bias": torch.zeros(1)})


@pytest.mark.parametrize(
    "update, decay",
    [(0, 0.999), (1, 0.99900003), (15000, 0.99945), (29999, 0.99989997), (30000, 0.9999), (10**6, 0.9999)],
)
def test_annealed_decay_of_the_paper(update, decay):
    assert annealed_decay(0.999, 0.9999, update, 30000) == pytest.approx(decay, abs=1e-10)


@pytest.mark.parametrize(
    "update, decay",
    [(0, 0.999), (1, 0.99900005), (20_000, 0.99963212), (100_000, 0.99999326), (184_206, 0.9999999), (184_207, 1.0)],
)
def test_exponential_decay_of_spidr(update, decay):
    """It starts as DinoSR's, and stops the teacher at 1 - 1e-7."""
    assert exponential_decay(0.999, 20_000, update) == pytest.approx(decay, abs=1e-8 if update < 184_206 else 1e-11)


def test_annealed_decay_without_annealing():
    assert annealed_decay(0.9, 0.8, 0, 0) == 0.8


# ---- buffers -------------------------------------------------------------------------------------------------------


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def trained(student: nn.Module) -> nn.Module:
    """After a forward pass, so that its running averages are not those of an untrained model."""
    student.train()(3 + 2 * torch.randn(16, 4))
    return moved(student)


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_buffers_are_copied_or_averaged(buffers):
    torch.manual_seed(0)
    student = with_batch_norm()
    teacher = EmaTeacher(with_batch_norm(), student, buffers=buffers)
    expected = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    for decay in (0.9, 0.5):
        trained(student)
        teacher.step_(student, decay)
        for name, tensor in student.state_dict().items():
            copied = name.endswith("num_batches_tracked") or (buffers == "copy" and "running" in name)
            expected[name] = tensor.clone() if copied else decay * expected[name] + (1 - decay) * tensor
            assert_close(teacher.average()[name], expected[name])
            assert torch.equal(teacher.model.state_dict()[name], teacher.average()[name])
    assert teacher.average()["1.num_batches_tracked"] == 2 and not teacher.model.training
    x = torch.randn(5, 4)
    mean, var = expected["1.running_mean"], expected["1.running_var"]
    normalised = (x @ expected["0.weight"].T + expected["0.bias"] - mean) / (var + 1e-5).sqrt()
    assert_close(teacher.model(x).detach(), normalised * expected["1.weight"] + expected["1.bias"])


def test_buffers_survive_a_checkpoint(tmp_path):
    student = with_batch_norm()
    teacher = EmaTeacher(with_batch_norm(), student, buffers="average")
    teacher.step_(trained(student), 0.7)
    torch.save(teacher.average(), tmp_path / "average.pt")
    other = EmaTeacher(with_batch_norm(), with_batch_norm(), buffers="average")
    other.restore_(torch.load(tmp_path / "average.pt", weights_only=True))
    trained(student)
    for each in (teacher, other):
        each.step_(student, 0.7)
    for name, tensor in teacher.average().items():
        assert torch.equal(other.average()[name], tensor) and torch.equal(other.model.state_dict()[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_buffers_stay_float32_in_half_precision(dtype):
    student = with_batch_norm()
    student.teacher = teacher = EmaTeacher(with_batch_norm(), student, buffers="average")
    student.to(dtype)
    assert teacher.model[1].running_mean.dtype == dtype
    with torch.no_grad():
        student[1].running_mean.fill_(1.0)
    for _ in range(3):
        teacher.step_(student, 0.9999)
    average = teacher.average()["1.running_mean"]
    assert average.dtype == torch.float32 and teacher.average()["1.num_batches_tracked"].dtype == torch.int64
    assert_close(average, torch.full((3,), 1 - 0.9999**3), rtol=1e-2, atol=0)
    assert torch.equal(teacher.model[1].running_mean, average.to(dtype))


def test_buffers_that_checkpoints_do_not_contain_are_left_alone():
    student, model = nn.Linear(2, 2), nn.Linear(2, 2)
    for each, value in ((student, 1.0), (model, 2.0)):
        each.register_buffer("positions", torch.tensor([value]), persistent=False)
    teacher = EmaTeacher(model, student)
    teacher.step_(student, 0.5)
    assert set(teacher.average()) == {"weight", "bias"} and model.positions.item() == 2.0
