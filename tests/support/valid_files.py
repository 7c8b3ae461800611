"""One small, valid file of every kind that the package reads, for tests that damage or replace them."""

import gzip
import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import soundfile
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import preprocess, train
from tensorboardX import SummaryWriter

from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.decoding.emissions import EmissionMetadata, EmissionWriter
from dinosr_plugin.interop.safetensors_export import export
from dinosr_plugin.units.unit_files import read_units, write_units
from support import cpc_audio_layout, spidr_layout
from support.checkpoints import put
from support.fairseq_models import fairseq_checkpoint
from support.hugging_face import recogniser
from support.other_models import onnx_bytes
from support.probing import write_probe_corpus
from support.recogniser import TEXTS, write_recogniser
from support.ssrl import write_ssrl_run
from support.textgrids import long_textgrid
from support.two_stages import train_stage

PHONES = ["AA", "B", "AA", "T", "AA"]
LENGTHS = (16000, 8000, 12000)  # samples of the utterances 0, 1, 2


def write_valid_files(folder: Path) -> None:
    """Fills ``folder``:

    - ``corpus``, and manifest, transcripts, labels and dictionaries of it: ``train.*``, ``dict.*``, ``bpe.model``,
      ``text_normalization.json``, which was made with ``replace.txt``
    - ``transcripts.tsv`` and ``utt2spk``, tables of its words and speakers
    - ``model.pt`` (fine-tuned), ``dinosr.pt``, ``packed.safetensors``, ``wav2vec2.pt``, ``cpc_audio/*.pt``,
      ``spidr/*.pt``, ``lm/*.pt``
    - ``hf`` and ``hf_ctc``, folders of transformers; ``model.onnx``
    - ``mfcc`` (a folder of features), ``kmeans.npz``, ``k.units``, ``pieces.ap.model``, ``emissions.npz``
    - ``trials.txt``, ``embeddings`` and ``scores.txt`` of ``train.tsv``; ``speakers.tsv`` and its ``cohort``
    - ``probe``: speech of several speakers (``write_probe_corpus``), and its ``phones.tsv``, ``words.tsv``
    - ``ssrl``: a training of SSRL (``write_ssrl_run``), ``embeddings`` of its last checkpoint, and ``trials.txt``
    - ``words.arpa``, ``lexicon.txt``, ``phones.tsv``, ``grids`` (TextGrid files), ``f0_ranges.tsv``, ``abx.item``,
      ``generate.txt``, ``train.log``
    - ``dataset`` and ``submission`` of ZeroSpeech 2021; ``librispeech`` and ``librilight`` in their layouts
    """
    write_recogniser(folder)
    (folder / "replace.txt").write_text("U+2019\t'\nTEE\tTEA\n")
    texts = ["--text-normalize", "--text-case", "upper", "--text-replace", folder / "replace.txt"]
    command("manifest", "folder", folder / "corpus", "--out", folder, "--valid-share", 0, "--bpe", 12, *texts)
    (folder / "transcripts.tsv").write_text("path\tsentence\n0.wav\tTEN TEA\n1\tEAT\n2.wav\t\n")
    (folder / "utt2spk").write_text("0 anna\n1 anna\n2 ben\n")
    write_phones(folder / "phones.tsv")
    write_grids(folder / "grids")
    write_probe_corpus(folder / "probe")
    for column in ("phones", "words"):
        header, *rows = (folder / f"probe/train.{column}.tsv").read_text().splitlines()
        rows += (folder / f"probe/test.{column}.tsv").read_text().splitlines()[1:]
        (folder / f"probe/{column}.tsv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "train.cluster").write_text("0\n1\n1\n")
    (folder / "f0_ranges.tsv").write_text("anna\t100\t400\nben\t75\t250\n")
    validated = ["optimization.max_update=4", "dataset.valid_subset=train", "dataset.disable_validation=false"]
    train_stage("pretraining", folder, validated).rename(folder / "dinosr.pt")
    shutil.rmtree(folder / "pretraining")
    export(folder / "dinosr.pt", folder / "packed.safetensors")
    write_hugging_face(folder)
    fairseq_checkpoint(folder / "wav2vec2.pt", "wav2vec2")
    write_cpc_audio(folder / "cpc_audio")
    spidr_layout.save(folder / "spidr", spidr_layout.random_state(), spidr_layout.options())
    (folder / "model.onnx").write_bytes(onnx_bytes())
    command("features", folder / "train.tsv", "--mfcc", "--out", folder / "mfcc")
    command("kmeans", "fit", folder / "mfcc", "--clusters", 4, "--out", folder / "kmeans.npz")
    command(
        "kmeans", "apply", folder / "kmeans.npz", folder / "mfcc", folder / "train.tsv", "--out", folder / "train.km"
    )
    command("units", folder / "mfcc", "--kmeans", folder / "kmeans.npz", "--out", folder / "k.units")
    command("units", folder / "k.units", folder / "train.tsv", "--pieces", 6, "--out", folder / "train.ap")
    command(
        "abx",
        "--phones",
        folder / "phones.tsv",
        "--span",
        "phone",
        "--write-items",
        folder / "abx.item",
        "--manifest",
        folder / "train.tsv",
    )
    (folder / "lexicon.txt").write_text("TEN T E N |\nTEA T E A |\nEAT E A T |\nNO N O |\n")
    (folder / "words.arpa.gz").write_bytes(gzip.compress((folder / "words.arpa").read_bytes()))
    (folder / "generate.txt").write_text(GENERATED)
    (folder / "train.log").write_text(LOG)
    (folder / "figures.json").write_text('{"rows": [{"name": "codebook 0", "pnmi": 0.5}]}')
    (folder / "rows.json").write_text('{"digest": "x", "rows": {"a": {"seconds": 1.5}}}')
    (folder / "synth").mkdir()
    (folder / "synth/corpus.json").write_text('{"parameters": {}, "files": 3}')
    (folder / "run").mkdir()
    put(folder / "run/checkpoint_last.pt", 4)
    write_event_file(folder / "tb/train_inner")
    write_emissions(folder)
    write_zerospeech(folder)
    write_librispeech(folder / "librispeech/dev-clean/7/8")
    write_librispeech(folder / "librilight/1h/0/clean/7/8")
    write_librispeech(folder / "librilight/9h/clean/7/9")
    write_language_model(folder)
    write_speaker_files(folder)


def command(*arguments) -> None:
    assert dinosr([str(argument) for argument in arguments]) == 0


GENERATED = "T-0\tTEN TEA\nD-0\t-0.5\tTEN NO\nT-1\tEAT\nD-1\t-0.25\tEAT\n"
LOG = "".join(
    f'[2026-01-01 00:00:00][train_inner][INFO] - {{"epoch": 1, "loss": "{3 - n / 10}", "num_updates": "{n}"}}\n'
    for n in range(1, 9)
)


def write_event_file(folder: Path) -> None:
    with SummaryWriter(str(folder)) as writer:
        for update in range(1, 5):
            writer.add_scalar("loss", 3 - update / 10, update)
    (file,) = folder.iterdir()
    file.rename(folder / "events.out.tfevents.1.x")


def write_phones(path: Path) -> None:
    lines = ["utt\tstart\tend\tphone"]
    for utterance, samples in enumerate(LENGTHS):
        step = samples / 16000 / len(PHONES)
        lines += [f"{utterance}\t{n * step:.3f}\t{(n + 1) * step:.3f}\t{name}" for n, name in enumerate(PHONES)]
    path.write_text("\n".join(lines) + "\n")


def write_grids(folder: Path) -> None:
    """The same phones in TextGrid files."""
    folder.mkdir()
    for utterance, samples in enumerate(LENGTHS):
        step = samples / 16000 / len(PHONES)
        tier = [(n * step, (n + 1) * step, name) for n, name in enumerate(PHONES)]
        (folder / f"{utterance}.TextGrid").write_text(long_textgrid({"phones": tier}, samples / 16000))


def write_cpc_audio(folder: Path) -> None:
    folder.mkdir()
    cpc_audio_layout.save(folder, cpc_audio_layout.reference(), cpc_audio_layout.linear_predictors())


def write_hugging_face(folder: Path) -> None:
    """``hf``, an export of ``dinosr.pt``, and ``hf_ctc``, a CTC model that was not exported here."""
    command("export", "hf", folder / "dinosr.pt", folder / "hf", "--license", "mit")
    trained = recogniser(folder / "ctc.pt", "hubert", ["|", "A"])
    command("export", "hf", trained, folder / "hf_ctc", "--license", "mit")
    config = json.loads((folder / "hf_ctc/config.json").read_text())
    (folder / "hf_ctc/config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "dinosr"}))
    for name in ("ctc.pt", "pretrained.pt"):
        (folder / name).unlink()


def write_emissions(folder: Path) -> None:
    """Random emissions of the fine-tuned model's dictionary, with the manifest's references."""
    letters = [line.split()[0] for line in (folder / "dict.ltr.txt").read_text().splitlines()]
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *letters]
    labels = (folder / "train.ltr").read_text().splitlines()
    files = [f"{number}.wav" for number in range(len(TEXTS))]
    meta = EmissionMetadata("abc", symbols, 0, str(folder / "corpus"), files, list(LENGTHS), labels)
    writer = EmissionWriter(folder / "emissions.npz", meta)
    torch.manual_seed(0)
    for row in range(len(TEXTS)):
        writer.add(row, torch.randn(12, len(symbols)).log_softmax(-1))
    writer.close()


def write_zerospeech(folder: Path) -> None:
    gold = {
        "lexical": "id,filename,voice,frequency,word,phones,length,correct\n1,w,A,3,cat,K,3,1\n1,n,A,,kit,K,3,0\n",
        "syntactic": "id,filename,voice,type,subtype,transcription,correct\n1,s,A,x,y,a dog,1\n1,t,A,x,y,dog a,0\n",
        "semantic": "type,filename,word,voice\nsynthetic,a,cat,A\nsynthetic,b,dog,A\nsynthetic,c,cow,A\n",
    }
    for name, text in gold.items():
        (folder / f"dataset/{name}/dev").mkdir(parents=True)
        (folder / f"dataset/{name}/dev/gold.csv").write_text(text)
        (folder / f"submission/{name}").mkdir(parents=True)
    (folder / "dataset/semantic/dev/pairs.csv").write_text(
        "type,dataset,word_1,word_2,similarity,relatedness\n"
        "synthetic,one,cat,dog,9,8\nsynthetic,one,cat,cow,1,2\nsynthetic,one,dog,cow,3,3\n"
    )
    (folder / "submission/lexical/dev.txt").write_text("w -1.5\nn -2.5\n")
    (folder / "submission/syntactic/dev.txt").write_text("s -1\nt -2e1\n")
    (folder / "frames.txt").write_text("1.0 2.0\n3.0 -4e-1\n")
    features = folder / "submission/semantic/dev/synthetic"
    features.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in "abc":
        np.save(features / f"{name}.npy", rng.normal(size=(5, 3)))


def write_librispeech(chapter: Path) -> None:
    """Two utterances of a chapter, in a folder SPEAKER/CHAPTER."""
    chapter.mkdir(parents=True)
    name = f"{chapter.parent.name}-{chapter.name}"
    for n in range(2):
        soundfile.write(chapter / f"{name}-000{n}.flac", np.random.default_rng(n).normal(0, 0.1, 8000), 16000)
    (chapter / f"{name}.trans.txt").write_text(f"{name}-0000 TEN TEA\n{name}-0001 EAT NO\n")


def write_speaker_files(folder: Path) -> None:
    """Trials of the corpus, and a manifest of two speakers."""
    (folder / "trials.txt").write_text("1 0.wav 1.wav\n0 0.wav 2.wav\n")
    command("speaker", "embed", folder / "train.tsv", "--mfcc", "--out", folder / "embeddings")
    command("speaker", "score", folder / "embeddings", folder / "trials.txt", "--out", folder / "scores.txt")
    files = [f"librispeech/dev-clean/7/8/7-8-000{n}.flac" for n in range(2)]
    rows = [*(f"{file}\t8000" for file in files), "corpus/0.wav\t16000", "corpus/1.wav\t8000"]
    (folder / "speakers.tsv").write_text("\n".join([str(folder), *rows]) + "\n")
    command("speaker", "embed", folder / "speakers.tsv", "--mfcc", "--out", folder / "cohort")
    trained = folder / "ssrl"
    write_ssrl_run(trained)
    last = trained / "run/checkpoint_last.pt"
    command("speaker", "embed", last, trained / "train.tsv", "--out", trained / "embeddings")
    command("speaker", "trials", trained / "train.tsv", "--out", trained / "trials.txt")


def write_language_model(folder: Path) -> None:
    """A language model of the units, and its dictionary ``lm/dict.txt``."""
    write_units(folder / "k.txt", read_units(folder / "k.units").items(), plain=True)
    texts = ["--trainpref", folder / "k.txt", "--only-source", "--destdir", folder / "lm", "--workers", 1]
    preprocess.main(options.get_preprocessing_parser().parse_args(list(map(str, texts))))
    sizes = ["--decoder-layers", 1, "--decoder-embed-dim", 8, "--decoder-hidden-size", 8, "--decoder-out-embed-dim", 8]
    arguments = [folder / "lm", "--task", "language_modeling", "--arch", "lstm_lm", *sizes]
    arguments += [
        "--tokens-per-sample",
        16,
        "--optimizer",
        "adam",
        "--lr",
        0.02,
        "--max-tokens",
        400,
        "--cpu",
        "--required-batch-size-multiple",
        1,
    ]
    arguments += ["--max-update", 1, "--save-dir", folder / "lm", "--disable-validation", "--no-epoch-checkpoints"]
    arguments += ["--num-workers", 0, "--log-format", "none"]
    namespace: Namespace = options.parse_args_and_arch(
        options.get_training_parser(), input_args=list(map(str, arguments))
    )
    train.main(convert_namespace_to_omegaconf(namespace))
