"""Checkpoints of spidr give the features and codes of the plain model; other files give a one-line error."""

import dataclasses
import json

import pytest
import torch
from torch.testing import assert_close

from dinosr_plugin.api import load
from dinosr_plugin.checkpoints.load import load_model, updates_of
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.errors import UserError
from dinosr_plugin.inspection.describe import describe
from dinosr_plugin.interop.spidr import from_spidr
from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig
from support.spidr_layout import CODEBOOKS, CODES, CONVOLUTIONS, LAYERS, WIDTH, PlainSpidR, options, random_state, save

FORMS = {
    "SpidR": {},
    "DinoSR": {"spidr": False},
    "DinoSR with biases": {"spidr": False, "qkv_bias": True},
    "group norm": {"mode": "group_norm"},
}


@pytest.fixture
def wave() -> torch.Tensor:
    return 0.1 * torch.randn(4567, generator=torch.Generator().manual_seed(5)) + 0.01


def write(folder, spidr: bool = True, mode: str = "layer_norm", **changes):
    """The file, and the tensors in it."""
    state = random_state(spidr, mode=mode, **changes)
    return save(folder, state, options(spidr, mode)), state


# ---- features and codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_features_and_codes_equal_those_of_the_plain_model(form, tmp_path, wave):
    path, state = write(tmp_path, **FORMS[form])
    plain = PlainSpidR(state, matching=FORMS[form].get("spidr", True))
    source = torch.nn.functional.layer_norm(wave, wave.shape).unsqueeze(0)
    outputs, _ = plain.transformer("student", plain.inputs(source))
    model, reader = load(path), open_reader(path)
    assert (reader.n_layers, reader.width, reader.rate) == (LAYERS, WIDTH, 50)
    for layer, expected in enumerate(outputs):
        assert_close(model.features(wave, layer), expected[0], rtol=0, atol=1e-5)
    teacher, student = plain.codes(source)  # (K, 1, F)
    assert torch.equal(model.units(wave), teacher.squeeze(1))
    assert torch.equal(load_model(path).model.predicted_codes(source), student)


@torch.no_grad()
def test_the_teachers_layers_are_read(tmp_path, wave):
    path, state = write(tmp_path)
    plain, reader = PlainSpidR(state), open_reader(path, "teacher")
    source = reader.prepare(wave)
    expected = plain.transformer("teacher", plain.inputs(source.unsqueeze(0)))[0][-1][0]
    assert_close(reader.read([source], [LAYERS - 1])[0].layers[0], expected, rtol=0, atol=1e-5)


def test_files_of_several_gpus_and_of_weights_alone(tmp_path, wave):
    path, state = write(tmp_path / "training")
    parallel = save(tmp_path / "parallel", state, options(), prefix="module.")
    alone = tmp_path / "parallel/weights.pt"
    torch.save(state, alone)
    units = [load(one).units(wave) for one in (path, parallel, alone)]
    assert torch.equal(units[0], units[1]) and torch.equal(units[0], units[2])


@pytest.mark.parametrize("spidr", [True, False])
def test_a_published_file_needs_no_config(spidr, tmp_path):
    """Of width 768, the weights alone say whether it is SpidR: it does not train its last LayerNorm."""
    path = tmp_path / "published.pt"
    torch.save({"model": published(spidr)}, path)
    converted = from_spidr(torch.load(path, weights_only=True, mmap=True), path)
    cfg = converted["cfg"].model
    assert (cfg.encoder_attention_heads, cfg.encoder_layers, cfg.codebook_size) == (12, 2, 4)
    assert cfg.head_layers == ("matching_ffn" if spidr else "last") and not cfg.qkv_bias
    assert converted["cfg"].task.normalize


def published(spidr: bool) -> dict:
    """The published sizes, but for 2 layers, small feed-forward blocks and 1 codebook of 4."""
    state = {"mask_embedding": torch.zeros(768), "current_step": torch.tensor([400_000])}
    ones = lambda name, size: {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)}
    linear = lambda name, out, inputs: {f"{name}.weight": torch.zeros(out, inputs), f"{name}.bias": torch.zeros(out)}
    kernels = (10, 3, 3, 3, 3, 2, 2)
    for i, kernel in enumerate(kernels):
        at = f"feature_extractor.conv_layers.{i}"
        state |= {f"{at}.conv.weight": torch.zeros(512, 512 if i else 1, kernel), **ones(f"{at}.layer_norm", 512)}
    state |= ones("feature_projection.layer_norm", 512) | linear("feature_projection.projection", 768, 512)
    for part in ("student", "teacher"):
        for j in range(5):
            at = f"{part}.pos_conv_embed.convs.{j}"
            state |= {f"{at}.weight": torch.zeros(768, 48, 19), f"{at}.bias": torch.zeros(768)}
        state |= ones(f"{part}.layer_norm", 768)
        for n in range(2):
            at = f"{part}.layers.{n}"
            state[f"{at}.attention.qkv.weight"] = torch.zeros(3 * 768, 768)
            state |= linear(f"{at}.attention.proj", 768, 768) | ones(f"{at}.layer_norm", 768)
            state |= linear(f"{at}.feed_forward.intermediate_dense", 8, 768)
            state |= linear(f"{at}.feed_forward.output_dense", 768, 8) | ones(f"{at}.final_layer_norm", 768)
    state |= linear("heads.0.0", 4, 768) | {
        "codebooks.0.codebook": torch.ones(4, 768),
        "codebooks.0.counts": torch.ones(4),
    }
    if not spidr:
        state["student.layers.1.final_layer_norm.bias"] = torch.full((768,), 1e-3)
    return state


def test_the_config_says_which_model_it_is(tmp_path):
    """A SpidR that started from another model has a trained LayerNorm."""
    state = random_state(spidr=False)
    assert load_model(save(tmp_path / "a", state, options(spidr=True))).cfg.model.head_layers == "matching_ffn"
    assert load_model(save(tmp_path / "b", random_state(), options(spidr=False))).cfg.model.head_layers == "last"


def test_strides_heads_and_normalisation_come_from_the_config(tmp_path):
    config = options(encoder_num_heads=2, extractor_conv_layer_config=[[16, 10, 4], *CONVOLUTIONS[1:]])
    config["data"]["normalize"] = False
    cfg = load_model(save(tmp_path, random_state(), config)).cfg
    assert cfg.model.encoder_attention_heads == 2 and cfg.model.conv_feature_layers.startswith("[(16, 10, 4)")
    assert not cfg.task.normalize


def test_training_starts_from_it(tmp_path):
    """With its codebooks, heads and teacher, if the settings agree."""
    path, state = write(tmp_path)
    source = load_model(path).model
    fields = [field.name for field in dataclasses.fields(DinoSRConfig)]
    torch.manual_seed(1)
    model = DinoSR(DinoSRConfig(**{name: getattr(source.cfg, name) for name in fields}))
    model.start_from(source, str(path))
    assert torch.equal(model.codebooks.sums[0], state["codebooks.0.codebook"])
    assert torch.equal(model.heads[2].weight, state["heads.2.0.weight"])
    name = "layers.0.final_layer_norm.weight"
    assert torch.equal(model.teacher.average()[name], state[f"teacher.{name}"])


def test_commands(tmp_path, recordings, capsys):
    """features, units and quality of recordings; inspect says what the file is."""
    path, _ = write(tmp_path / "run")
    assert dinosr(["units", str(path), str(recordings), "--out", str(tmp_path / "units")]) == 0
    assert len((tmp_path / "units/codebook_2.units").read_text().splitlines()) == 2
    assert dinosr(["features", str(path), str(recordings), "--out", str(tmp_path / "features")]) == 0
    assert dinosr(["quality", str(path), "--manifest", str(recordings)]) == 0
    assert "codebook 2" in capsys.readouterr().out
    assert dinosr(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "step_400.pt: SpidR\n" in out and "dinosr units" in out


@pytest.fixture
def recordings(tmp_path):
    """A manifest of two recordings."""
    import soundfile

    (tmp_path / "audio").mkdir()
    generator = torch.Generator().manual_seed(2)
    rows = [str(tmp_path / "audio")]
    for name, samples in (("a", 9000), ("b", 7000)):
        sound = 0.1 * torch.randn(samples, generator=generator)
        soundfile.write(tmp_path / f"audio/{name}.wav", sound.numpy(), 16000)
        rows.append(f"{name}.wav\t{samples}")
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "train.tsv"


# ---- inspection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spidr, kind", [(True, "SpidR"), (False, "DinoSR in SpidR's layout")])
def test_inspected(spidr, kind, tmp_path):
    path, _ = write(tmp_path, spidr)
    described = describe(path)
    assert (described.kind, described.written_by, described.updates) == (kind, "spidr", 400)
    assert described.sizes == {"layers": LAYERS, "width": WIDTH, "heads": 4, "feed_forward": 48}
    assert (described.rate, described.first_centre, described.normalized_waves) == (50, 0.0125, True)
    books = described.codebooks
    assert (books.count, books.size, books.layers) == (CODEBOOKS, CODES, [1, 2, 3])
    assert described.commands[0] == "dinosr units" and described.instead is None


def test_the_updates_of_a_published_file(tmp_path):
    torch.save({"model": published(spidr=True)}, tmp_path / "published.pt")
    assert describe(tmp_path / "published.pt").updates == updates_of(tmp_path / "published.pt") == 400_000
    assert updates_of(write(tmp_path / "training")[0]) == 400
    state = random_state()
    del state["current_step"]
    torch.save({"model": state}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="x.pt: "):
        updates_of(tmp_path / "x.pt")


def test_inspected_without_its_config(tmp_path):
    described = describe(save(tmp_path, random_state()))
    assert described.kind.startswith("SpidR") and not described.commands and described.codebooks.count == CODEBOOKS
    assert "copy the config.json that its training wrote into its folder" in described.instead


def test_weights_that_are_not_finite(tmp_path):
    state = random_state()
    state["student.layers.1.attention.proj.bias"][3] = torch.nan
    path = save(tmp_path, state, options())
    assert "NaN or infinity" in describe(path).instead
    with pytest.raises(UserError, match="step_400.pt"):
        open_reader(path)


# ---- bad files -------------------------------------------------------------------------------------------------------


def without(*names: str) -> dict:
    return {name: tensor for name, tensor in random_state().items() if name not in names}


FIRST = "student.layers.0.feed_forward"
KERNELS = {
    f"{part}.pos_conv_embed.convs.{j}.weight": torch.zeros(WIDTH, 8, 1)
    for part in ("student", "teacher")
    for j in (0, 1)
}
BAD = {
    "a missing tensor": (without("teacher.layers.2.attention.proj.bias"), "2.attention.proj.bias is missing, not"),
    "a missing codebook": (without("codebooks.1.codebook"), "codebooks.1.codebook is missing, not \\(16, 32\\)"),
    "no codebooks": (
        {name: tensor for name, tensor in random_state().items() if not name.startswith("codebooks.")},
        "codebooks.0.codebook missing",
    ),
    "no feed-forward": (without(f"{FIRST}.intermediate_dense.weight"), f"{FIRST}.intermediate_dense.weight missing"),
    "a layer too many": (
        random_state() | {"student.layers.4.layer_norm.bias": torch.zeros(WIDTH)},
        "student.layers.4.attention.proj.bias is missing",
    ),
    "an unknown tensor": (
        random_state() | {"student.layers.0.adapter.weight": torch.zeros(3)},
        r"student.layers.0.adapter.weight is \(3,\), not absent",
    ),
    "another shape": (
        random_state() | {"heads.1.0.weight": torch.zeros(CODES, WIDTH + 1)},
        r"heads.1.0.weight is \(16, 33\), not \(16, 32\)",
    ),
    "no dimensions": (random_state() | {"codebooks.0.codebook": torch.zeros(())}, "codebooks.0.codebook missing or of"),
    "one positional convolution": (
        {name: tensor for name, tensor in random_state().items() if ".convs.1." not in name},
        "one positional convolution",
    ),
    "a kernel of 1": (random_state() | KERNELS, "convs.0.weight is"),
    "larger than the file": (
        random_state() | {"mask_embedding": torch.zeros(1).expand(10**9)},
        "mask_embedding' is larger than the file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tensors(case, tmp_path):
    state, message = BAD[case]
    path = save(tmp_path, state, options())
    with pytest.raises(UserError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config, message",
    [
        (None, "width 32, whose attention heads are not known: .* copy the config.json"),
        ("{", "config.json: not JSON; copy it again"),
        ("[1]", "config.json: contains no JSON object"),
        ({"architectures": ["BertModel"]}, "whose attention heads are not known"),
        ({"model": []}, "model.extractor_mode in config.json is not a str"),
        (options(encoder_num_heads="many"), "model.encoder_num_heads in config.json is not a int"),
        (options(encoder_num_heads=5), "encoder_embed_dim=32 is not a multiple of model.encoder_attention_heads=5"),
        (options(encoder_num_heads=-4), "model.encoder_attention_heads=-4: must be"),
        (options(encoder_layer_norm_first=1), "model.encoder_layer_norm_first in config.json is not a bool"),
        (options(mode="batch_norm"), "model.extractor_mode in config.json is not one of layer_norm, group_norm"),
        (options(extractor_conv_layer_config=[1, 2]), "extractor_conv_layer_config in config.json is not a list of"),
        (options(extractor_conv_layer_config=CONVOLUTIONS[:6]), "feature_extractor.conv_layers.6"),
        (options() | {"run": []}, "run.model_type in config.json is not a str"),
        (options() | {"data": {"normalize": "yes"}}, "data.normalize in config.json is not a bool"),
    ],
)  # fmt: skip
def test_bad_options(config, message, tmp_path):
    path = save(tmp_path, random_state())
    if config is not None:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(UserError, match=message) as error:
        load_model(path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert not describe(path).commands


@pytest.mark.parametrize(
    "state", [{"model": {"feature_projection.projection.weight": torch.zeros(2, 2)}}, {"model": 3}]
)
def test_other_files(state, tmp_path):
    torch.save(state, tmp_path / "other.pt")
    assert from_spidr(state, tmp_path / "other.pt") is None
    with pytest.raises(UserError, match="other.pt: "):
        load_model(tmp_path / "other.pt")
