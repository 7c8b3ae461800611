"""A checkpoint is data: no code in it runs, a damaged one is refused, and its numbers are bounded by its size."""

import ast
import importlib.util
import io
import os
import random
import re
import struct
import sys
import time
import traceback
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils, utils
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask
from omegaconf import OmegaConf

import dinosr_plugin
from dinosr_plugin import compat
from dinosr_plugin.checkpoints import building
from dinosr_plugin.checkpoints.building import AllocationLimit
from dinosr_plugin.checkpoints.contents import Damaged
from dinosr_plugin.checkpoints.file import is_torch_file, read_checkpoint, read_fairseq_checkpoint
from dinosr_plugin.checkpoints.load import load_model, updates_of
from dinosr_plugin.compat.evaluation import EVALUATED, literal
from dinosr_plugin.compat.language_models import require_language_model
from dinosr_plugin.errors import UserError
from dinosr_plugin.runs import resuming
from dinosr_plugin.tasks.finetuning import DinoSRFinetuningConfig, DinoSRFinetuningTask
from dinosr_plugin.units.language_model import UnitLanguageModel
from support import hostile_checkpoints as hostile
from support.fairseq_models import fairseq_checkpoint, fine_tuned_checkpoint
from support.limits import at_most
from support.paths import GOLDEN, PLUGIN

CHECKPOINT = GOLDEN / "official_format_tiny.pt"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Writes a kind of hostile file, the same one for all tests; returns its path and that of the marker."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "dict.txt").write_text("".join(f"{unit} 1\n" for unit in range(16)))
    names = {kind: folder / f"{number}.pt" for number, kind in enumerate(hostile.HOSTILE)}

    def write(kind: str) -> tuple[Path, Path]:
        path, marker = names[kind], folder / "marker"
        marker.unlink(missing_ok=True)
        if not path.exists():
            hostile.HOSTILE[kind](path, marker)
        return path, marker

    return write


def refusal(load, path) -> str:
    """The message of the UserError, which is one line, names the file, and has none of torch's advice before it."""
    with pytest.raises(UserError) as error:
        load(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    shown = "".join(traceback.format_exception(error.value))
    assert "weights_only=False" not in shown and "safe_globals" not in shown
    return message


# ---- every kind of file, on every route ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", hostile.HOSTILE)
def test_loading_a_model(zoo, kind):
    path, marker = zoo(kind)
    if kind in hostile.UNUSED:
        dinosr_plugin.load(path)
    else:
        refusal(dinosr_plugin.load, path)
    assert not marker.exists()


@pytest.mark.parametrize("kind", [kind for kind in hostile.CODE if "_lm" not in kind])
def test_fairseqs_own_loader(zoo, kind):
    """Also if fairseq builds the model itself: ``fairseq-generate``, ``fairseq-validate``, another plug-in."""
    path, marker = zoo(kind)
    for load in (
        checkpoint_utils.load_checkpoint_to_cpu,
        lambda path: checkpoint_utils.load_model_ensemble([path], {"data": os.path.dirname(path)}),
        lambda path: checkpoint_utils.load_model_ensemble_and_task([path], {"data": os.path.dirname(path)}),
    ):
        try:
            load(str(path))
        except UserError as error:
            assert str(path) in str(error)
        assert not marker.exists()


@pytest.mark.parametrize("kind", [*hostile.DAMAGED, *hostile.OTHER_FILES, "pickle", "updates of text", "no history"])
def test_other_routes(zoo, kind):
    """Resuming, histories, language models."""
    path, marker = zoo(kind)
    with pytest.raises(Damaged):
        resuming.read(path)
    refusal(updates_of, path)
    refusal(checkpoint_utils.load_checkpoint_to_cpu, path)
    refusal(UnitLanguageModel, path)
    assert not marker.exists()


@pytest.mark.parametrize("kind", [kind for kind in hostile.CODE if "_lm" in kind])
def test_language_models(zoo, kind):
    path, marker = zoo(kind)
    assert "language model" in refusal(UnitLanguageModel, path) or "not a literal" in refusal(UnitLanguageModel, path)
    with pytest.raises(UserError, match=f"^--lm-path {path}: "):
        checkpoint_utils.load_model_ensemble([str(path)], arg_overrides={"data": str(path.parent)}, task=None)
    assert not marker.exists()


@pytest.fixture(scope="module")
def finetuning(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    (folder / "dict.ltr.txt").write_text("A 1\n")
    cfg = OmegaConf.structured(DinoSRFinetuningConfig(data=str(folder), tpu=False, seed=1))
    task = DinoSRFinetuningTask.setup_task(cfg)

    def build(path, w2v_args=None):
        model = {"_name": "wav2vec_ctc", "w2v_path": str(path), "w2v_args": w2v_args, "normalize": False, "data": "."}
        return task.build_model(OmegaConf.create(model))

    return build


NOT_PRETRAINED = [kind for kind in hostile.HOSTILE if "fine-tuned" not in kind and kind not in hostile.UNUSED]


@pytest.mark.parametrize("kind", NOT_PRETRAINED)
def test_fine_tuning_from_a_file(zoo, finetuning, kind):
    path, marker = zoo(kind)
    assert refusal(finetuning, path).startswith(f"model.w2v_path={path}: ")
    assert not marker.exists()


def test_fine_tuning_from_a_recogniser(tmp_path, finetuning):
    fairseq_checkpoint(tmp_path / "pretrained.pt", "wav2vec2")
    fine_tuned_checkpoint(tmp_path / "tuned.pt", tmp_path / "pretrained.pt", "audio_finetuning")
    assert "is a fine-tuned model, a recogniser; give the pre-trained checkpoint" in refusal(
        finetuning, tmp_path / "tuned.pt"
    )


def test_a_fine_tuned_model_opens_no_other_file(tmp_path, finetuning):
    """Without the config of the pre-trained model, fairseq would load the file that ``w2v_path`` names."""
    fairseq_checkpoint(tmp_path / "pretrained.pt", "wav2vec2")
    fine_tuned_checkpoint(tmp_path / "tuned.pt", tmp_path / "pretrained.pt", "audio_finetuning")
    state = torch.load(tmp_path / "tuned.pt")
    state["cfg"]["model"] |= {"w2v_args": None, "w2v_path": str(tmp_path / "pretrained.pt")}
    torch.save(state, tmp_path / "without.pt")
    assert "without the config of its pre-trained model" in refusal(load_model, tmp_path / "without.pt")
    load_model(tmp_path / "tuned.pt")


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_a_changed_bit_is_found_in_every_record(tmp_path):
    path = tmp_path / "small.pt"
    torch.save({"model": {f"w{i}": torch.randn(2 + i) for i in range(8)}, "cfg": {}}, path)
    intact, found = path.read_bytes(), hostile.records(path)
    assert sum("/data/" in name for name in found) == 8
    for record in found:
        path.write_bytes(intact)
        hostile.flip(path, record)
        with pytest.raises(UserError, match=r"small\.pt: damaged \(checksums do not match\)"):
            read_checkpoint(path)


def test_the_bytes_of_a_file_are_compared_once(tmp_path, monkeypatch):
    path, read = tmp_path / "copy.pt", []
    path.write_bytes(CHECKPOINT.read_bytes())
    testzip = zipfile.ZipFile.testzip
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: read.append(archive.filename) or testzip(archive))
    load_model(path)
    updates_of(path)
    resuming.read(path)
    assert read == [str(path)] or read == [path]
    hostile.flip(path, hostile.records(path)[0])
    os.utime(path, (0, 0))
    assert "checksums" in refusal(load_model, path) and len(read) == 2


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: pytest.fail("unpacked"))
    with zipfile.ZipFile(CHECKPOINT) as old, zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert "compressed, which PyTorch files are not" in refusal(load_model, tmp_path / "x.pt")


def second_directory(intact: bytes) -> bytes:
    """A copy of the records before the end, with a directory that zipfile finds; torch finds the first one."""
    end = intact.rindex(b"PK\5\6")
    size, start = struct.unpack_from("<II", intact, end + 12)
    directory, distance = (
        bytearray(intact[start : start + size]),
        size,
    )  # of the copies, from where zipfile expects them
    for match in re.finditer(b"PK\1\2", bytes(directory)):
        (place,) = struct.unpack_from("<I", directory, match.start() + 42)
        struct.pack_into("<I", directory, match.start() + 42, place + distance - size)
    return intact[: start + size] + intact[:start] + bytes(directory) + intact[end:]


def repeated_name(intact: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(intact)) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [(record.filename, archive.read(record)) for record in archive.infolist()]
        changed = io.BytesIO()
        with zipfile.ZipFile(changed, "w") as copy:
            for name, content in [found[0], *found]:
                copy.writestr(name, content)
    return changed.getvalue()


@pytest.mark.parametrize("change", [second_directory, repeated_name, lambda intact: intact + bytes(100)])
def test_an_archive_that_can_be_read_in_two_ways_is_refused(tmp_path, change):
    """The checksums of the records that zipfile sees would say nothing about those that torch loads."""
    stored = io.BytesIO()
    with zipfile.ZipFile(CHECKPOINT) as old, zipfile.ZipFile(stored, "w") as new:  # without torch's 64-bit directory
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    (tmp_path / "x.pt").write_bytes(stored.getvalue())
    load_model(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(change(stored.getvalue()))
    assert zipfile.ZipFile(tmp_path / "x.pt").testzip() is None
    refusal(load_model, tmp_path / "x.pt")


def test_a_64_bit_directory_elsewhere_is_refused(tmp_path):
    changed = bytearray(CHECKPOINT.read_bytes())
    locator = changed.rindex(b"PK\6\7")
    changed[locator + 8] ^= 1  # where torch looks for the directory
    (tmp_path / "x.pt").write_bytes(changed)
    assert zipfile.ZipFile(tmp_path / "x.pt").testzip() is None
    refusal(load_model, tmp_path / "x.pt")


def test_a_pipe_is_not_opened(tmp_path):
    """Opening it would wait for ever."""
    os.mkfifo(tmp_path / "pipe.pt")
    for load in (load_model, updates_of, is_torch_file, checkpoint_utils.load_checkpoint_to_cpu, UnitLanguageModel):
        assert "is a pipe or a device" in refusal(load, tmp_path / "pipe.pt")


USUAL = "give a checkpoint that a training saved"
IMPORT = "make a checkpoint of its folder: dinosr import hf DIR OUT.pt"
NAMED = {
    "Hugging Face": f"not a checkpoint of fairseq: it contains nothing but tensors, like Hugging Face's "
    f"pytorch_model.bin (dinosr import hf); {USUAL}",
    "safetensors": "not a PyTorch file but safetensors, a format of Hugging Face; " + IMPORT,
    "ONNX": "not a PyTorch file but a model in ONNX format; " + USUAL,
    "TorchScript": "not a PyTorch file but a program of TorchScript (torch.jit); " + USUAL,
    "NumPy archive": "not a PyTorch file but arrays of NumPy (.npz); " + USUAL,
    "zip archive": "not a PyTorch file but a zip archive of another program; unpack it, and give the checkpoint in it",
    "Git LFS pointer": "not a PyTorch file but a pointer of Git LFS; run `git lfs pull` where it is from, or download "
    "the file itself",
    "web page": "not a PyTorch file but a web page; download the file itself",
    "gzip": "not a PyTorch file but compressed by gzip; unpack it, and give the checkpoint in it",
    "s3prl": f"not a checkpoint of fairseq: it is s3prl's copy of a fairseq checkpoint; {USUAL}",
    "PyTorch Lightning": f"not a checkpoint of fairseq: it is a checkpoint of PyTorch Lightning; {USUAL}",
    "weights without a config": "has no config (cfg), so it is not a checkpoint of fairseq: it contains 'model', "
    f"'optimizer', 'step'; {USUAL}",
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_file_of_another_program_is_named(zoo, kind):
    path, _ = zoo(kind)
    for load in (load_model, read_fairseq_checkpoint):
        assert refusal(load, path) == f"{path}: {NAMED[kind]}"


def test_folders(tmp_path):
    assert refusal(load_model, tmp_path) == f"{tmp_path}: is a folder, not a file; {USUAL}"
    (tmp_path / "config.json").write_text("{}")
    message = f"{tmp_path}: is a folder, not a file, with a model of Hugging Face; {IMPORT}"
    assert refusal(load_model, tmp_path) == message


# ---- text of configs -------------------------------------------------------------------------------------------------


def called_names(source: str) -> set[str]:
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def modules_that_evaluate() -> set[str]:
    found = set()
    for package in ("fairseq", "fairseq_cli"):
        folder = Path(importlib.util.find_spec(package).origin).parent
        for path in folder.rglob("*.py"):
            if {"eval", "exec"} & called_names(path.read_text()):
                parts = path.relative_to(folder.parent).with_suffix("").parts
                found.add(".".join(parts))
    return found


EXAMPLES = "fairseq.examples."


def test_every_module_of_fairseq_that_evaluates_text_is_in_the_table():
    """Of the examples only data2vec's audio model is imported, see the next test."""
    found = {name for name in modules_that_evaluate() if not name.startswith(EXAMPLES)}
    assert found == {name for name in EVALUATED if not name.startswith(EXAMPLES)}


def test_of_fairseqs_examples_only_the_listed_one_is_imported():
    imported = set()
    for path in PLUGIN.rglob("*.py"):
        imported |= set(re.findall(r"(?:fairseq\.)?examples\.[\w.]+(?=\"\))", path.read_text()))
    assert imported == {name for name in EVALUATED if name.startswith(EXAMPLES)} != set()


def test_eval_is_the_parser_in_every_imported_module(tmp_path):
    fairseq_checkpoint(tmp_path / "x.pt", "data2vec_audio")
    load_model(tmp_path / "x.pt")
    imported = [name for name in EVALUATED if name in sys.modules]
    assert set(EVALUATED) - set(imported) <= {"fairseq_cli.eval_lm", "fairseq_cli.validate"}
    assert all(sys.modules[name].eval is literal for name in imported)


def test_fairseqs_settings_are_read_as_before(tmp_path):
    assert utils.eval_str_list("10,20", int) == [10, 20] and utils.eval_str_list("0.5") == [0.5]
    assert utils.eval_str_dict("{'a': 1}") == {"a": 1} and utils.eval_bool("True") and utils.eval_bool(None, True)
    assert utils.eval_bool(True, "default") == "default"  # fairseq catches the TypeError
    marker = tmp_path / "marker"
    for function in (utils.eval_str_list, utils.eval_str_dict, utils.eval_bool):
        with pytest.raises(UserError, match="is not a literal.*; fairseq would run it as Python"):
            function(hostile.code(marker))
    assert not marker.exists()


def save_with(path: Path, **fields) -> Path:
    state = hostile.genuine()
    state["cfg"]["common"] |= fields
    torch.save(state, path)
    return path


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a ${oc.decode:1}", "${task.data}${task.data}", "${oc.create:{}}"])
def test_no_resolver_is_called_for_a_checkpoint(tmp_path, value):
    """Nor is text joined from references, each of which may double its length."""
    path = save_with(tmp_path / "x.pt", log_file=value)
    assert "cfg.common.log_file=" in refusal(load_model, path) and "OmegaConf" in refusal(load_model, path)


def test_a_reference_to_another_field_is_allowed(tmp_path):
    load_model(save_with(tmp_path / "x.pt", log_file="${task.data}"))


def test_other_models_of_fairseq_are_refused_before_they_are_built(tmp_path):
    """They would open the files that their configs name, and more."""
    state = hostile.genuine("wav2vec2")
    state["cfg"]["task"] = {"_name": "speech_to_text", "data": str(tmp_path)}
    torch.save(state, tmp_path / "task.pt")
    assert "its task is fairseq's speech_to_text, which cannot be read" in refusal(load_model, tmp_path / "task.pt")
    state = hostile.genuine("fine-tuned wav2vec2")
    state["cfg"]["model"]["w2v_args"]["model"]["_name"] = "transformer"
    torch.save(state, tmp_path / "model.pt")
    assert "its model is fairseq's transformer, which" in refusal(load_model, tmp_path / "model.pt")


# ---- language models -------------------------------------------------------------------------------------------------


def saved_language_model(path: Path, **options) -> str:
    torch.save(hostile.language_model(**options), path)
    return str(path)


@pytest.mark.parametrize("arch", ["lstm_lm", "transformer_lm", "transformer_lm_gpt", "transformer_lm_big"])
def test_supported_language_models(tmp_path, arch):
    path = saved_language_model(tmp_path / "lm.pt", arch=arch)
    assert require_language_model(path, path)["_name"] == "language_modeling"


@pytest.mark.parametrize("arch", ["fconv_lm", "lightconv_lm", "transformer", "hf_gpt2", "nothing"])
def test_other_language_models_are_refused(tmp_path, arch):
    path = saved_language_model(tmp_path / "lm.pt", arch=arch)
    assert f"of the architecture {arch}, which is not supported; give one of lstm_lm or transformer_lm" in refusal(
        UnitLanguageModel, path
    )


def test_a_language_model_opens_no_other_file(tmp_path):
    path = saved_language_model(tmp_path / "lm.pt", arch="lstm_lm", decoder_embed_path="/dev/zero")
    assert "its embeddings are in another file" in refusal(UnitLanguageModel, path)


def test_embeddings_are_not_read_from_a_pipe(tmp_path):
    """fairseq would wait for ever: ``fairseq-generate --task audio_finetuning`` builds any model of fairseq."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dict.ltr.txt").write_text("A 1\n")
    options = {"arch": "lstm_lm", "decoder_embed_path": str(tmp_path / "pipe"), "labels": "ltr"}
    torch.save(hostile.language_model(**options), tmp_path / "x.pt")
    task = AudioFinetuningTask(AudioFinetuningConfig(data=str(tmp_path), labels="ltr"))
    load = lambda path: checkpoint_utils.load_model_ensemble([str(path)], task=task)
    with at_most(10):
        assert "pipe: is a pipe or a device" in refusal(load, tmp_path / "x.pt")


@pytest.mark.parametrize("field, value", [("decoder_embed_dim", 10**9), ("decoder_layers", 10**9)])
def test_the_size_of_a_language_model_is_bounded(tmp_path, field, value):
    (tmp_path / "dict.txt").write_text("1 1\n")
    path = saved_language_model(tmp_path / "lm.pt", arch="lstm_lm", **{field: value})
    assert "describes a much larger model than its weights" in refusal(UnitLanguageModel, path)


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_sizes_are_refused_before_memory_is_taken():
    for create in (
        lambda: torch.empty(10**7, 10**7),
        lambda: torch.zeros(10**12),
        lambda: torch.randn(10**11),
        lambda: torch.full((10**11,), 1.0),
        lambda: torch.arange(10**11),
        lambda: torch.linspace(0, 1, 10**11),
        lambda: torch.eye(10**6),
        lambda: torch.nn.Linear(10**6, 10**6),
        lambda: torch.nn.Embedding(10**9, 512),
        lambda: [torch.nn.Linear(1, 1) for _ in range(10**9)],
    ):
        started = time.monotonic()
        with (
            pytest.raises(UserError, match="x.pt: its config describes a much larger model"),
            AllocationLimit(0, "x.pt"),
        ):
            create()
        assert time.monotonic() - started < 30  # seconds


def test_values_and_views_are_not_sizes():
    with AllocationLimit(0, "x.pt"):
        x = torch.full((2, 3), 1e30)
        torch.scalar_tensor(1e30)
        x[:, 1:].expand(1000, 2, 2).fill_(10**9)
        assert x.masked_fill(x > 0, -1e9).min() == -1e9


def test_the_limit_changes_no_weights():
    torch.manual_seed(0)
    expected = torch.nn.TransformerEncoderLayer(8, 2).state_dict()
    torch.manual_seed(0)
    with AllocationLimit(10**6, "x.pt"):
        found = torch.nn.TransformerEncoderLayer(8, 2).state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_view_larger_than_its_file_is_refused(tmp_path):
    state = hostile.genuine()
    state["model"]["mask_emb"] = torch.zeros(1).expand(10**12)
    torch.save(state, tmp_path / "x.pt")
    assert "'model.mask_emb' is larger than the file" in refusal(load_model, tmp_path / "x.pt")


def test_views_that_are_larger_together_than_their_file_are_refused(tmp_path):
    state = hostile.genuine()
    n = CHECKPOINT.stat().st_size // 2
    state["model"] |= {f"x{i}": torch.zeros(1).half().expand(n) for i in range(50)}
    torch.save(state, tmp_path / "x.pt")
    assert "is larger than the file" in refusal(load_model, tmp_path / "x.pt")
    torch.save({"weights": {"gEncoder.x": torch.zeros(1).half().expand(10**12)}}, tmp_path / "cpc.pt")
    assert "is larger than the file" in refusal(load_model, tmp_path / "cpc.pt")


@pytest.mark.parametrize(
    "field, value", [("index", 7), ("__len__", 7), ("symbols", ["<s>", "<pad>", "</s>", "a\nH-0", "A"])]
)
def test_a_dictionary_with_hidden_methods_or_line_breaks_is_refused(tmp_path, field, value):
    """torch sets whatever attributes the file names."""
    pretrained, path = tmp_path / "pretrained.pt", tmp_path / "x.pt"
    fairseq_checkpoint(pretrained, "wav2vec2")
    fine_tuned_checkpoint(path, pretrained, "audio_finetuning")
    state = torch.load(path)
    vars(state["task_state"]["target_dictionary"])[field] = value
    torch.save(state, path)
    assert "target_dictionary is not a dictionary" in refusal(load_model, path)


def test_weights_in_dictionaries_that_contain_each_other_many_times_are_refused(tmp_path):
    """45 dictionaries, 2**45 tensors."""
    state = hostile.genuine()
    state["model"] = {}
    for _ in range(45):
        state["model"] = {"a": state["model"], "b": state["model"]}
    torch.save(state, tmp_path / "x.pt")
    assert "contains more than 1000000 tensors" in refusal(load_model, tmp_path / "x.pt")


def test_genuine_checkpoints_need_a_fraction_of_the_limit(monkeypatch):
    modes = []
    monkeypatch.setattr(building, "AllocationLimit", lambda *args: modes.append(AllocationLimit(*args)) or modes[-1])
    load_model(CHECKPOINT)
    assert modes and all(mode.left > AllocationLimit.EXTRA / 2 for mode in modes)


# ---- lists of paths --------------------------------------------------------------------------------------------------


def test_a_path_with_a_colon_is_one_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.pt", "c.pt", "d:e:f.pt"):
        Path(name).touch()
    assert utils.split_paths("a:b.pt") == ["a:b.pt"]
    assert utils.split_paths("c.pt:a:b.pt:d:e:f.pt:c.pt") == ["c.pt", "a:b.pt", "d:e:f.pt", "c.pt"]
    assert utils.split_paths("x:y:c.pt") == ["x", "y", "c.pt"]
    assert utils.split_paths("s3://a|s3://b") == ["s3://a", "s3://b"]
    compat.apply()
    assert utils.split_paths("a:b.pt") == ["a:b.pt"]


def test_every_bit_changed_is_one_line_or_no_change(tmp_path):
    """Anywhere in the file: in the directory of the archive, too."""
    intact, path, rng = CHECKPOINT.read_bytes(), tmp_path / "x.pt", random.Random(0)
    for _ in range(30):
        content = bytearray(intact)
        content[rng.choice([rng.randrange(len(content)), -1 - rng.randrange(20000)])] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            read_fairseq_checkpoint(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
