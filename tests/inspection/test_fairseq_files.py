"""What is said of checkpoints of fairseq, compared with the models that are built from them."""

from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from omegaconf import OmegaConf

import dinosr_plugin
from dinosr_plugin.checkpoints.opening import open_model, open_reader
from dinosr_plugin.errors import UserError
from dinosr_plugin.inspection.describe import describe
from dinosr_plugin.inspection.objectives import KINDS, START, TUNE, UNITS
from dinosr_plugin.models.objective import Objective
from support import cpc_audio_layout, hostile_checkpoints
from support.entry_points import PARSERS
from support.fairseq_models import MODELS, fairseq_checkpoint, fine_tuned_checkpoint
from support.paths import GOLDEN

dinosr_plugin.register()

TRUNK = dict(
    encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=24, encoder_attention_heads=2, conv_pos=8,
    conv_pos_groups=2, front_end="fbank", n_mels=10,
)  # fmt: skip
SPIN = dict(TRUNK, start_from="x.pt", trained_layers=[1], codebook_size=4, projection_dim=8)
SPEAKER = dict(
    channels=[8, 8, 8, 16],
    kernels=[5, 3, 3, 1],
    dilations=[1, 2, 3, 1],
    res2net_scale=4,
    se_width=4,
    attention_width=4,
    embedding_dim=8,
)
OWN = {
    "dinosr": dict(TRUNK, average_top_k_layers=1, codebook_size=4),
    "dinosr_hubert": dict(TRUNK, num_classes=[5], final_dim=8),
    "spin": SPIN,
    "r_spin": dict(SPIN, num_classes=[5]),
    "cpc": dict(encoder_channels=16, context_dim=8),
    "cpc_deepcluster": dict(
        encoder_channels=16, context_dim=8, num_classes=[3], front_end="log_mel", start_from="x.pt"
    ),
    "apc": dict(layers=2, width=16, direction="both"),
    "mpc": dict(layers=2, width=16, encoder="transformer", heads=2, feed_forward=24),
    "ssrl_speaker": dict(SPEAKER, n_clusters=3),
    "dino_speaker": dict(SPEAKER, head_bottleneck=4, head_outputs=8),
}
"""This plug-in's models, tiny."""


def save(path: Path, name: str, **more) -> Path:
    """A checkpoint of an untrained model of this plug-in."""
    cfg = OmegaConf.merge(OmegaConf.structured(MODEL_DATACLASS_REGISTRY[name]), OWN[name])
    model = MODEL_REGISTRY[name](cfg)
    task = {"_name": "dinosr_speaker" if "speaker" in name else "dinosr_pretraining", "data": "", "normalize": True}
    history = [{"num_updates": 5, "criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}]
    container = {**OmegaConf.to_container(cfg, enum_to_str=True), "_name": name}
    state = {
        "args": None,
        "cfg": {"model": container, "task": task},
        "model": model.state_dict(),
        "optimizer_history": history,
        "extra_state": {"train_iterator": {"epoch": 4}},
        "task_state": {},
    }
    torch.save({**state, **more}, path)
    return path


def learned(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def require_equal(path: Path) -> None:
    """What is said of a checkpoint is what its reader has."""
    described, reader = describe(path), open_model(path)
    outside = {"teacher", "codebooks"} if described.kind == "DinoSR" else {"teacher"}  # not parameters of the module
    said = sum(count for part, count in described.parameters.items() if part not in outside)
    assert described.instead is None and described.commands and said == learned(reader.model)
    assert described.normalized_waves == reader.normalize and described.precision == ["float32"]
    if hasattr(reader, "n_layers"):
        assert (described.sizes["layers"], described.sizes["width"]) == (reader.n_layers, reader.width)
        assert (described.rate, described.first_centre) == (reader.rate, reader.first_centre)
        assert (UNITS[0] in described.commands) == bool(reader.code_sets)
    else:
        assert described.sizes == {"embedding": reader.width} and described.rate is None
    for codes in list(getattr(reader, "code_sets", {}).values())[:1]:
        books = described.codebooks
        assert (books.count, books.size, tuple(books.layers)) == (codes.count, codes.size, codes.layers)


@pytest.mark.parametrize("name", OWN)
def test_models_of_this_plug_in(name, tmp_path):
    require_equal(save(tmp_path / "x.pt", name))
    described = describe(tmp_path / "x.pt")
    assert (described.updates, described.epochs) == (5, 3) and described.written_by == "dinosr_plugin, with fairseq"


@pytest.mark.parametrize("kind", MODELS)
def test_models_of_fairseq(kind, tmp_path):
    fairseq_checkpoint(tmp_path / "x.pt", kind, normalize=True)
    require_equal(tmp_path / "x.pt")
    described = describe(tmp_path / "x.pt")
    assert described.kind == KINDS[kind.removesuffix("_large")].title and described.written_by == "fairseq"
    expected = {"wav2vec2": (2, 8), "hubert": (1, 14)}.get(kind)  # 10 units and 4 special symbols
    assert expected == (described.codebooks and (described.codebooks.count, described.codebooks.size))


def test_the_released_layout_of_dinosr():
    require_equal(GOLDEN / "official_format_tiny.pt")
    described = describe(GOLDEN / "official_format_tiny.pt")
    state = torch.load(GOLDEN / "official_format_tiny.pt", weights_only=True)["model"]
    used = [sum(count != 1.0 for count in state[f"_codebook_cnts{k}"].tolist()) for k in range(2)]
    assert described.written_by == "the released code of DinoSR, with fairseq" and described.updates == 3
    assert described.codebooks.in_use == used and 0 < min(used) < 8
    assert described.parameters["teacher"] == sum(one.numel() for one in state["_ema"].values())


@pytest.mark.parametrize("task", ["dinosr_finetuning", "audio_finetuning"])
def test_a_recogniser(task, tmp_path):
    fairseq_checkpoint(tmp_path / "pretrained.pt", "wav2vec2")
    model = fine_tuned_checkpoint(tmp_path / "x.pt", tmp_path / "pretrained.pt", task)
    (tmp_path / "text_normalization.json").write_text('{"case": "upper"}')
    described = describe(tmp_path / "x.pt")
    assert described.kind == "recogniser, fine-tuned from wav2vec 2.0" and "dinosr transcribe" in described.commands
    assert sum(described.parameters.values()) == learned(model) and described.sizes["outputs"] == 5
    assert (described.dictionary.count, described.dictionary.first) == (5, ["A"])
    assert described.dictionary.normalization["case"] == "upper" and described.codebooks is None
    assert described.rate == open_reader(tmp_path / "x.pt").rate


def test_cpc_audio(tmp_path):
    criterion = cpc_audio_layout.linear_predictors()
    path = cpc_audio_layout.save(tmp_path, cpc_audio_layout.reference(), criterion)
    require_equal(path)
    described = describe(path)
    assert described.written_by == "CPC_audio" and TUNE[0] not in described.commands
    reversed_path = cpc_audio_layout.save(tmp_path, cpc_audio_layout.reference(), criterion, {"cpc_mode": "reverse"})
    described = describe(reversed_path)
    assert not described.commands and "trained backwards in time" in described.instead


def test_the_clusters_of_ssrl(tmp_path):
    labels = {"removed": torch.tensor([True, False, False])}
    described = describe(save(tmp_path / "x.pt", "ssrl_speaker", task_state={"pseudo_labels": labels}))
    assert (described.codebooks.size, described.codebooks.in_use) == (3, [2])


# ---- language models and others --------------------------------------------------------------------------------------


def test_a_language_model(tmp_path):
    state = hostile_checkpoints.language_model(arch="lstm_lm", decoder_layers=1, decoder_embed_dim=8)
    state["model"] = {
        "decoder.embed_tokens.weight": torch.zeros(6, 8),
        "decoder.layers.0.weight_ih": torch.zeros(32, 8),
    }
    torch.save(state, tmp_path / "lm.pt")
    (tmp_path / "dict.txt").write_text("7 3\n9 1\n")
    described = describe(tmp_path / "lm.pt")
    assert described.kind == "language model (LSTM)" and "dinosr lm-score" in described.commands
    assert described.sizes == {"layers": 1, "width": 8, "outputs": 6}
    assert described.parameters == {"embeddings": 48, "layers": 256}
    assert (described.dictionary.count, described.dictionary.first) == (6, ["7", "9"])


@pytest.mark.parametrize(
    "task, arch, kind",
    [
        ("translation", "transformer_iwslt_de_en", "sequence-to-sequence model (transformer)"),
        ("translation_lev", "levenshtein_transformer", "sequence-to-sequence model (levenshtein_transformer)"),
        ("language_modeling", "fconv_lm", "language model (fconv_lm)"),
        ("speech_to_text", "s2t_transformer", "sequence-to-sequence model (s2t_transformer)"),
        ("perpetual", "mobile", "model of the task perpetual (mobile)"),
    ],
)
def test_models_of_fairseq_that_cannot_be_read(task, arch, kind, tmp_path):
    state = hostile_checkpoints.language_model(arch=arch, task=task)
    state["model"] = {
        "encoder.layers.0.fc1.weight": torch.zeros(4, 2),
        "decoder.layers.0.fc1.weight": torch.zeros(4, 2),
    }
    torch.save(state, tmp_path / "x.pt")
    described = describe(tmp_path / "x.pt")
    assert described.kind == kind and described.instead and not described.commands


@pytest.mark.parametrize("name", ["wav2vec", "wav2vec_seq2seq", "data2vec_multi"])
def test_speech_models_without_a_reader(name, tmp_path):
    state = hostile_checkpoints.genuine("wav2vec2")
    state["cfg"]["model"] = {"_name": name, "w2v_args": {"model": {"_name": "wav2vec2"}, "task": state["cfg"]["task"]}}
    torch.save(state, tmp_path / "x.pt")
    described = describe(tmp_path / "x.pt")
    assert described.kind.startswith(KINDS[name].title) and described.instead and not described.commands
    with pytest.raises(UserError):
        open_reader(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["cfg"]["model"].update(encoder_layers=5),
        lambda state: state["cfg"]["model"].update(encoder_embed_dim=64),
        lambda state: state["cfg"]["model"].update(encoder_ffn_embed_dim=0),
        lambda state: state["model"].clear(),
        lambda state: state["model"]["mask_emb"].fill_(float("nan")),
        lambda state: state["cfg"]["task"].update(_name="nonsense"),
        lambda state: state["cfg"]["model"].update(_name="nonsense"),
    ],
)
def test_what_cannot_be_read_is_said(change, tmp_path):
    state = hostile_checkpoints.genuine("wav2vec2")
    change(state)
    torch.save(state, tmp_path / "x.pt")
    described = describe(tmp_path / "x.pt")
    assert described.instead and not described.commands
    with pytest.raises(UserError):
        open_reader(tmp_path / "x.pt")


def test_no_model_is_built(tmp_path, monkeypatch):
    save(tmp_path / "x.pt", "dinosr")
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("a module is built"))
    assert describe(tmp_path / "x.pt").kind == "DinoSR"


def test_keys_that_are_not_names_and_views(tmp_path):
    state = hostile_checkpoints.genuine("wav2vec2")
    state["model"] |= {7: torch.zeros(2), "nested": {8: torch.zeros(3)}}
    torch.save(state, tmp_path / "x.pt")
    assert describe(tmp_path / "x.pt").parameters["heads"] >= 5
    state["model"]["view"] = torch.zeros(1).expand(10**12)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError, match="larger than the file"):
        describe(tmp_path / "x.pt")


# ---- the table of kinds ----------------------------------------------------------------------------------------------

OF_THIS_PLUG_IN = {
    name for name, model in MODEL_REGISTRY.items() if model.__module__.startswith("dinosr_plugin.models.")
}


def test_every_model_of_this_plug_in_is_in_the_table_and_tested():
    assert OWN.keys() == OF_THIS_PLUG_IN and KINDS.keys() >= OF_THIS_PLUG_IN


@pytest.mark.parametrize("name", OWN)
def test_fine_tuning_and_starting_are_offered_where_they_are_possible(name):
    model, commands = MODEL_REGISTRY[name], KINDS[name].commands
    assert (TUNE[0] in commands) == (model.feature_width is not Objective.feature_width)
    assert (START[0] in commands) == (model.start_from is not Objective.start_from)


def test_the_commands_exist():
    named = {command for kind in KINDS.values() for command in kind.commands if command.startswith("dinosr ")}
    assert named and {command.partition(" --")[0].removeprefix("dinosr ") for command in named} <= PARSERS.keys()


def test_dictionaries_may_be_large(tmp_path):
    fairseq_checkpoint(tmp_path / "pretrained.pt", "wav2vec2")
    fine_tuned_checkpoint(tmp_path / "x.pt", tmp_path / "pretrained.pt", "audio_finetuning")
    state = torch.load(tmp_path / "x.pt")
    dictionary = Dictionary()
    for number in range(1000):
        dictionary.add_symbol(f"s{number}" * 100)
    state["task_state"]["target_dictionary"] = dictionary
    torch.save(state, tmp_path / "x.pt")
    described = describe(tmp_path / "x.pt").dictionary
    assert described.count == 1004 and len(described.first) == 8 and max(map(len, described.first)) < 30
