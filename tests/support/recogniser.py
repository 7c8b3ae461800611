"""A random recogniser with three utterances, and ``fairseq-generate`` in this process."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from fairseq import options
from fairseq_cli import generate
from omegaconf import OmegaConf

from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.tasks.finetuning import DinoSRFinetuningConfig, DinoSRFinetuningTask
from support.paths import PLUGIN
from support.small_arpa import write_arpa

TRUNK = {
    "_name": "dinosr",
    "encoder_layers": 1,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "average_top_k_layers": 1,
    "codebook_size": 4,
    "front_end": "fbank",
}
TEXTS = ["TEN TEA", "EAT NO", "ON"]


def write_recogniser(folder: Path) -> None:
    """Fills ``folder``: three utterances with manifest and labels, an n-gram model, and ``model.pt``, a ``wav2vec_ctc``
    checkpoint with random weights."""
    rng = np.random.default_rng(0)
    (folder / "corpus").mkdir()
    for number, (text, samples) in enumerate(zip(TEXTS, (16000, 8000, 12000))):
        soundfile.write(folder / f"corpus/{number}.wav", rng.normal(0, 0.1, samples), 16000)
        (folder / f"corpus/{number}.txt").write_text(text)
    assert dinosr(["manifest", "folder", str(folder / "corpus"), "--out", str(folder), "--valid-share", "0"]) == 0
    task = DinoSRFinetuningTask.setup_task(
        OmegaConf.structured(DinoSRFinetuningConfig(data=str(folder), tpu=False, seed=1))
    )
    pretrained = {
        "model": TRUNK,
        "task": {"_name": "dinosr_pretraining", "data": "", "normalize": False, "tpu": False, "seed": 1},
    }
    cfg = OmegaConf.create(
        {"_name": "wav2vec_ctc", "w2v_path": "", "w2v_args": pretrained, "normalize": False, "data": ""}
    )
    torch.manual_seed(0)
    model = task.build_model(cfg)
    with torch.no_grad():
        model.w2v_encoder.proj.weight.mul_(10)
    saved_task = {**OmegaConf.to_container(task.cfg, enum_to_str=True), "_name": "dinosr_finetuning"}
    saved = {
        "model": OmegaConf.to_container(cfg),
        "task": saved_task,
        "common": {},
        "checkpoint": {"save_dir": str(folder)},
    }
    # without a history fairseq treats it as a checkpoint of an old version
    history = {
        "optimizer_history": [{"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {},
    }
    torch.save({"cfg": saved, "model": model.state_dict(), **history}, folder / "model.pt")
    write_arpa(folder / "words.arpa", ["TEN", "TEA", "EAT", "NO"], favourite="NO")


def run_generate(folder: Path, out: Path, *more) -> Path:
    """Runs ``fairseq-generate`` on the data and model of ``write_recogniser``; returns its results file."""
    arguments = [
        folder,
        "--task",
        "dinosr_finetuning",
        "--user-dir",
        PLUGIN,
        "--path",
        folder / "model.pt",
        "--gen-subset",
        "train",
        "--cpu",
    ]
    arguments += [
        "--scoring",
        "dinosr_wer",
        "--post-process",
        "letter",
        "--num-workers",
        "0",
        "--results-path",
        out,
        *more,
    ]
    parser = options.get_generation_parser()
    parser.add_argument("--arch", default="wav2vec2")  # as fairseq-generate does
    generate.main(options.parse_args_and_arch(parser, input_args=list(map(str, arguments))))
    return out / "generate-train.txt"
