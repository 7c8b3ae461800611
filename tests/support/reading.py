"""All functions of the package that read a file from outside, each with a valid file of ``write_valid_files``."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dinosr_plugin.checkpoints.classifier import open_classifier
from dinosr_plugin.checkpoints.file import is_torch_file
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.data import audio, bpe, conversion, labels, manifest
from dinosr_plugin.data.check import check_manifest
from dinosr_plugin.data.corpora.folder import Choices, folder_splits
from dinosr_plugin.data.corpora.librispeech import librispeech_splits
from dinosr_plugin.data.perturbation.f0 import read_comments, read_table
from dinosr_plugin.data.recordings import Recordings
from dinosr_plugin.data.synth.corpus import _finished
from dinosr_plugin.data.text_file import normalize_file
from dinosr_plugin.data.text_normalization import read_normalization
from dinosr_plugin.data.text_replacements import read_replacements
from dinosr_plugin.data.utterance_labels import read_utterance_labels
from dinosr_plugin.data.validation import validate_labels
from dinosr_plugin.data.windows import read_window
from dinosr_plugin.decoding import ngram, search, transcribe
from dinosr_plugin.decoding.emissions import EmissionReader
from dinosr_plugin.decoding.lexicon import read_lexicon
from dinosr_plugin.decoding.recogniser import load_recogniser
from dinosr_plugin.decoding.results import score_generate_output
from dinosr_plugin.evaluation.history import updates_of
from dinosr_plugin.evaluation.measures.abx.items import read_items
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.evaluation.probes.checkpoints import validation_loss
from dinosr_plugin.evaluation.probes.inputs import read_genders
from dinosr_plugin.evaluation.sources import open_features, open_units
from dinosr_plugin.evaluation.speakers.embeddings import Embeddings
from dinosr_plugin.evaluation.speakers.label_history import mean_weights, measure_labels
from dinosr_plugin.evaluation.speakers.recordings import read_recordings
from dinosr_plugin.evaluation.speakers.scores import read_scores
from dinosr_plugin.evaluation.speakers.training_run import min_samples
from dinosr_plugin.evaluation.speakers.trials import read_trials
from dinosr_plugin.evaluation.speech import Speech
from dinosr_plugin.evaluation.table import RowTable
from dinosr_plugin.evaluation.training_log import read_pretraining_log, validation_losses
from dinosr_plugin.evaluation.zerospeech.pairs import lexical
from dinosr_plugin.evaluation.zerospeech.semantic import read_features
from dinosr_plugin.evaluation.zerospeech.submission import evaluate
from dinosr_plugin.files.paths import remove
from dinosr_plugin.inspection.describe import describe
from dinosr_plugin.interop.hugging_face.card import read_figures
from dinosr_plugin.interop.hugging_face.importing import import_folder
from dinosr_plugin.runs.resuming import checkpoint_changes
from dinosr_plugin.units.batches import Utterance, load_checked_wave, read_utterances
from dinosr_plugin.units.kmeans import KMeans
from dinosr_plugin.units.label_files import new_dictionary
from dinosr_plugin.units.language_model import UnitLanguageModel
from dinosr_plugin.units.pieces import PieceModel
from dinosr_plugin.units.unit_files import read_labelled_units, read_units
from support.checkpoints import config
from support.decoding import dictionary_of


class Reader(NamedTuple):
    """``call(folder)`` reads ``file``, a path in it; ``kind``: of ``mutations.variants``."""

    file: str
    kind: str
    call: Callable[[Path], Any]


LETTERS = dictionary_of("|TENAO")
WAV = "corpus/0.wav"
SSRL = "ssrl/run/checkpoint_last.pt"


def check(folder: Path) -> None:
    check_manifest(folder / "train.tsv", 8000, 16000, 1)


def transcripts_with_pieces(folder: Path) -> None:
    split = manifest.read_manifest(folder / "train.tsv")
    rows = [replace(row, words="TEN TEA") for row in split.utterances]
    bpe.bpe_files([replace(split, utterances=rows)], ["train"], folder / "bpe.model")


def normalize(folder: Path) -> None:
    rule = read_normalization(folder / "text_normalization.json")
    normalize_file(folder / "train.wrd", rule, folder / "new.wrd", skip=True)


def convert(folder: Path) -> None:
    conversion.convert(folder / WAV, folder / "converted.flac")


def rows_of_features(folder: Path) -> None:
    features = open_features(folder / "mfcc").features
    for _ in features:
        pass


def emissions(folder: Path) -> None:
    reader = EmissionReader(folder / "emissions.npz")
    reader.meta.dictionary()
    for _ in reader:
        pass


def resume(folder: Path) -> None:
    checkpoint_changes(config(folder / "run"))


def speech(folder: Path) -> None:
    Speech.read(folder / "train.tsv", PhoneAlignment.read(folder / "phones.tsv"))[0].digest  # noqa: B018 (a property)


def labels_of_a_training(folder: Path) -> None:
    measure_labels(folder / "ssrl/run", folder / "ssrl/train.tsv")


def imported(name: str) -> Callable[[Path], Any]:
    return lambda folder: (remove(folder / "imported.pt"), import_folder(folder / name, folder / "imported.pt"))


def features_of(name: str) -> Callable[[Path], Any]:
    return lambda folder: open_reader(folder / name)


def inspected(name: str) -> Callable[[Path], Any]:
    return lambda folder: describe(folder / name)


TEXT, BINARY, ARCHIVE = "text", "binary", "archive"
READERS = {
    "manifest": Reader("train.tsv", TEXT, lambda folder: manifest.read_manifest(folder / "train.tsv")),
    "manifest of utterances": Reader("train.tsv", TEXT, lambda folder: read_utterances(folder / "train.tsv")),
    "manifest, checked": Reader("train.tsv", TEXT, check),
    "manifest of speech": Reader("train.tsv", TEXT, speech),
    "classifier of clusters": Reader(SSRL, ARCHIVE, lambda folder: open_classifier(folder / SSRL)),
    "settings of a training": Reader(SSRL, ARCHIVE, lambda folder: min_samples(folder / "ssrl/run")),
    "labels of a training": Reader("ssrl/run/labels/epoch1.clusters", TEXT, labels_of_a_training),
    "first labels of a training": Reader("ssrl/train.clusters", TEXT, labels_of_a_training),
    "mean weights of a training": Reader(
        "ssrl/train.log", TEXT, lambda folder: mean_weights(folder / "ssrl/train.log")
    ),
    "letters, checked": Reader("train.ltr", TEXT, check),
    "rules of transcripts": Reader("text_normalization.json", TEXT, lambda folder: read_normalization(folder)),
    "rules of transcripts, checked": Reader("text_normalization.json", TEXT, check),
    "replacements in transcripts": Reader(
        "replace.txt", TEXT, lambda folder: read_replacements(folder / "replace.txt", "NFC")
    ),
    "text to normalise": Reader("train.wrd", TEXT, normalize),
    "words, checked": Reader("train.wrd", TEXT, check),
    "pieces, checked": Reader("train.bpe", TEXT, check),
    "labels, checked": Reader("train.km", TEXT, check),
    "dictionary, checked": Reader("dict.ltr.txt", TEXT, check),
    "transcript, checked": Reader("corpus/0.txt", TEXT, check),
    "audio, checked": Reader(WAV, BINARY, check),
    "dictionary": Reader("dict.ltr.txt", TEXT, lambda folder: manifest.read_dictionary(folder / "dict.ltr.txt")),
    "dictionary of labels": Reader("dict.km.txt", TEXT, lambda folder: labels.count_classes(folder, "km")),
    "labels": Reader(
        "train.km", TEXT, lambda folder: labels.read_labels(folder / "train.km", 4, [16000, 8000, 12000], 50)
    ),
    "labels of utterances": Reader(
        "train.cluster", TEXT, lambda folder: read_utterance_labels(folder / "train.cluster", 3)
    ),
    "labels of letters": Reader("train.ltr", TEXT, lambda folder: validate_labels(folder / "train.tsv", "ltr", 3)),
    "dictionary of clusters": Reader("dict.km.txt", TEXT, lambda folder: new_dictionary(folder / "train.km", 4)),
    "named units": Reader("k.units", TEXT, lambda folder: read_units(folder / "k.units")),
    "labels of units": Reader(
        "train.km", TEXT, lambda folder: read_labelled_units(folder / "train.km", folder / "train.tsv")
    ),
    "transcripts of LibriSpeech": Reader(
        "librispeech/dev-clean/7/8/7-8.trans.txt",
        TEXT,
        lambda folder: librispeech_splits(folder / "librispeech", None, 1),
    ),
    "FLAC of LibriSpeech": Reader(
        "librispeech/dev-clean/7/8/7-8-0000.flac",
        BINARY,
        lambda folder: librispeech_splits(folder / "librispeech", None, 1),
    ),
    "transcript in a folder": Reader(
        "corpus/0.txt", TEXT, lambda folder: folder_splits(folder / "corpus", Choices(valid_share=0))
    ),
    "table of transcripts": Reader(
        "transcripts.tsv",
        TEXT,
        lambda folder: folder_splits(folder / "corpus", Choices(valid_share=0, transcripts=folder / "transcripts.tsv")),
    ),
    "table of speakers": Reader(
        "utt2spk",
        TEXT,
        lambda folder: folder_splits(folder / "corpus", Choices("speaker", valid_share=0, speakers=folder / "utt2spk")),
    ),
    "pieces": Reader("bpe.model", BINARY, transcripts_with_pieces),
    "pieces of units": Reader("pieces.ap.model", BINARY, lambda folder: PieceModel.read(folder / "pieces.ap.model")),
    "manifest of noise": Reader("train.tsv", TEXT, lambda folder: Recordings.read(folder / "train.tsv")),
    "noise": Reader(WAV, BINARY, lambda folder: Recordings.read(folder / "train.tsv").part(0, 0.0, 20000)),
    "ranges of F0": Reader("f0_ranges.tsv", TEXT, lambda folder: read_table(folder / "f0_ranges.tsv")),
    "what ranges of F0 are of": Reader("f0_ranges.tsv", TEXT, lambda folder: read_comments(folder / "f0_ranges.tsv")),
    "header": Reader(WAV, BINARY, lambda folder: audio.read_header(folder / WAV)),
    "samples": Reader(WAV, BINARY, lambda folder: audio.read_sound(folder / WAV)),
    "part of samples": Reader(WAV, BINARY, lambda folder: read_window(folder / WAV, 16000, 5000, 900)),
    "exact parts": Reader(WAV, BINARY, lambda folder: audio.parts_are_exact(folder / WAV)),
    "wave": Reader(WAV, BINARY, lambda folder: load_checked_wave(Utterance("0", folder / WAV, 16000))),
    "wave to convert": Reader(WAV, BINARY, convert),
    "recording": Reader(WAV, BINARY, lambda folder: transcribe.survey_one(folder / WAV)),
    "units": Reader("k.units", TEXT, lambda folder: open_units(folder / "k.units")),
    "about units": Reader("k.units.json", TEXT, lambda folder: open_units(folder / "k.units")),
    "kmeans": Reader("kmeans.npz", ARCHIVE, lambda folder: KMeans.load(folder / "kmeans.npz")),
    "about features": Reader("mfcc/meta.json", TEXT, rows_of_features),
    "index of features": Reader("mfcc/features_1_of_1.tsv", TEXT, rows_of_features),
    "features": Reader("mfcc/features_1_of_1.npy", BINARY, rows_of_features),
    "trials": Reader("trials.txt", TEXT, lambda folder: read_trials(folder / "trials.txt")),
    "scores of trials": Reader("scores.txt", TEXT, lambda folder: read_scores(folder / "scores.txt")),
    "about embeddings": Reader("embeddings/meta.json", TEXT, lambda folder: Embeddings(folder / "embeddings")),
    "index of embeddings": Reader(
        "embeddings/features_1_of_1.tsv", TEXT, lambda folder: Embeddings(folder / "embeddings")
    ),
    "embeddings": Reader("embeddings/features_1_of_1.npy", BINARY, lambda folder: Embeddings(folder / "embeddings")),
    "manifest of recordings": Reader("train.tsv", TEXT, lambda folder: read_recordings(folder / "train.tsv")),
    "recording to embed": Reader(WAV, BINARY, lambda folder: read_recordings(folder / "train.tsv")[0].load()),
    "emissions": Reader("emissions.npz", ARCHIVE, emissions),
    "lexicon": Reader("lexicon.txt", TEXT, lambda folder: read_lexicon(folder / "lexicon.txt", LETTERS)),
    "words as lexicon": Reader("train.wrd", TEXT, lambda folder: read_lexicon(folder / "train.wrd", LETTERS)),
    "n-gram model": Reader(
        "words.arpa", TEXT, lambda folder: search.load_lm(str(folder / "words.arpa"), ["TEN", "NO"])
    ),
    "compressed n-gram model": Reader(
        "words.arpa.gz", BINARY, lambda folder: search.load_lm(str(folder / "words.arpa.gz"), ["TEN", "NO"])
    ),
    "text of an n-gram model": Reader(
        "train.wrd", TEXT, lambda folder: ngram.make_ngram(folder / "train.wrd", 2, folder / "new.arpa")
    ),
    "results": Reader("generate.txt", TEXT, lambda folder: score_generate_output(folder / "generate.txt")),
    "phones": Reader("phones.tsv", TEXT, lambda folder: PhoneAlignment.read(folder / "phones.tsv")),
    "TextGrid": Reader("grids/0.TextGrid", TEXT, lambda folder: PhoneAlignment.read(folder / "grids")),
    "words of speech": Reader(
        "probe/words.tsv", TEXT, lambda folder: PhoneAlignment.read(folder / "probe/words.tsv", column="word")
    ),
    "genders": Reader("probe/genders.tsv", TEXT, lambda folder: read_genders(folder / "probe/genders.tsv")),
    "validation loss": Reader("dinosr.pt", ARCHIVE, lambda folder: validation_loss(folder / "dinosr.pt", 0, {})),
    "items": Reader("abx.item", TEXT, lambda folder: read_items(folder / "abx.item")),
    "training log": Reader("train.log", TEXT, lambda folder: read_pretraining_log(folder / "train.log")),
    "validation losses in a log": Reader("train.log", TEXT, lambda folder: validation_losses(folder / "train.log")),
    "event file": Reader(
        "tb/train_inner/events.out.tfevents.1.x", BINARY, lambda folder: read_pretraining_log(folder / "tb")
    ),
    "gold file": Reader(
        "dataset/lexical/dev/gold.csv",
        TEXT,
        lambda folder: lexical(folder / "dataset/lexical/dev/gold.csv", folder / "submission/lexical/dev.txt"),
    ),
    "scores": Reader(
        "submission/syntactic/dev.txt",
        TEXT,
        lambda folder: evaluate(folder / "dataset", folder / "submission", "dev", "min"),
    ),
    "pairs of words": Reader(
        "dataset/semantic/dev/pairs.csv",
        TEXT,
        lambda folder: evaluate(folder / "dataset", folder / "submission", "dev", "min"),
    ),
    "submitted features": Reader(
        "submission/semantic/dev/synthetic/a.npy",
        BINARY,
        lambda folder: evaluate(folder / "dataset", folder / "submission", "dev", "min"),
    ),
    "submitted features as text": Reader("frames.txt", TEXT, lambda folder: read_features(folder / "frames.txt")),
    "rows of a table": Reader("rows.json", TEXT, lambda folder: RowTable(folder / "rows.json", "x")),
    "summary of a synthetic corpus": Reader("synth/corpus.json", TEXT, lambda folder: _finished(folder / "synth", {})),
    "checkpoint": Reader("dinosr.pt", ARCHIVE, features_of("dinosr.pt")),
    "packed checkpoint": Reader("packed.safetensors", BINARY, features_of("packed.safetensors")),
    "checkpoint of fairseq": Reader("wav2vec2.pt", ARCHIVE, features_of("wav2vec2.pt")),
    "checkpoint of CPC_audio": Reader("cpc_audio/checkpoint_30.pt", ARCHIVE, features_of("cpc_audio/checkpoint_30.pt")),
    "options of CPC_audio": Reader("cpc_audio/checkpoint_args.json", TEXT, features_of("cpc_audio/checkpoint_30.pt")),
    "checkpoint of SpidR": Reader("spidr/step_400.pt", ARCHIVE, features_of("spidr/step_400.pt")),
    "options of SpidR": Reader("spidr/config.json", TEXT, features_of("spidr/step_400.pt")),
    "fine-tuned checkpoint": Reader("model.pt", ARCHIVE, lambda folder: load_recogniser(folder / "model.pt")),
    "any checkpoint": Reader("model.pt", ARCHIVE, lambda folder: load_model(folder / "model.pt")),
    "checkpoint or units": Reader("dinosr.pt", ARCHIVE, lambda folder: is_torch_file(folder / "dinosr.pt")),
    "updates of a checkpoint": Reader("dinosr.pt", ARCHIVE, lambda folder: updates_of(folder / "dinosr.pt")),
    "checkpoint of a run": Reader("run/checkpoint_last.pt", ARCHIVE, resume),
    "config of Hugging Face": Reader("hf/config.json", TEXT, imported("hf")),
    "weights of Hugging Face": Reader("hf/model.safetensors", BINARY, imported("hf")),
    "codebooks of Hugging Face": Reader("hf/codebooks.safetensors", BINARY, imported("hf")),
    "CTC model of Hugging Face": Reader("hf_ctc/config.json", TEXT, imported("hf_ctc")),
    "symbols of Hugging Face": Reader("hf_ctc/vocab.json", TEXT, imported("hf_ctc")),
    "tokenizer of Hugging Face": Reader("hf_ctc/tokenizer_config.json", TEXT, imported("hf_ctc")),
    "feature extractor of Hugging Face": Reader("hf_ctc/preprocessor_config.json", TEXT, imported("hf_ctc")),
    "figures for a model card": Reader(
        "figures.json", TEXT, lambda folder: read_figures(folder / "dinosr.pt", folder / "figures.json")
    ),
    "language model": Reader(
        "lm/checkpoint_last.pt",
        ARCHIVE,
        lambda folder: UnitLanguageModel(folder / "lm/checkpoint_last.pt", None, "cpu"),
    ),
    "inspected checkpoint": Reader("dinosr.pt", ARCHIVE, inspected("dinosr.pt")),
    "inspected checkpoint of CPC_audio": Reader(
        "cpc_audio/checkpoint_30.pt", ARCHIVE, inspected("cpc_audio/checkpoint_30.pt")
    ),
    "inspected checkpoint of SpidR": Reader("spidr/step_400.pt", ARCHIVE, inspected("spidr/step_400.pt")),
    "inspected k-means": Reader("kmeans.npz", ARCHIVE, inspected("kmeans.npz")),
    "inspected dictionary": Reader("lm/dict.txt", TEXT, inspected("lm/checkpoint_last.pt")),
    "inspected config of Hugging Face": Reader("hf/config.json", TEXT, inspected("hf")),
    "inspected vocabulary": Reader("hf_ctc/vocab.json", TEXT, inspected("hf_ctc")),
    "inspected safetensors": Reader("hf/model.safetensors", BINARY, inspected("hf/model.safetensors")),
    "inspected ONNX": Reader("model.onnx", BINARY, inspected("model.onnx")),
    "dictionary of a language model": Reader(
        "lm/dict.txt", TEXT, lambda folder: UnitLanguageModel(folder / "lm/checkpoint_last.pt", None, "cpu")
    ),
}


def copy_valid_files(valid: Path, folder: Path) -> Path:
    """A copy that can be changed; its manifest names its own corpus."""
    shutil.copytree(valid, folder)
    tsv = folder / "train.tsv"
    tsv.write_text(tsv.read_text().replace(str(valid), str(folder)))
    return folder
