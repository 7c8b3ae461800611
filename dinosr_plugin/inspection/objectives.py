"""Kinds of models: what each was trained to do, and which commands read it."""

from typing import NamedTuple

FRAMES = [
    "dinosr features", "dinosr kmeans fit", "dinosr quality", "dinosr probe", "dinosr similarity", "dinosr report",
    "dinosr speaker embed",
]  # fmt: skip
"""The commands that read any model of frames."""
UNITS = ["dinosr units"]
START = ["model.start_from (training that starts from it)"]
TUNE = ["model.w2v_path (CTC fine-tuning)"]
TRANSCRIBE = ["dinosr transcribe", "fairseq-generate --task dinosr_finetuning"]
SCORE = ["dinosr lm-score", "dinosr lm-features", "fairseq-generate --lm-path"]
SPEAKERS = ["dinosr speaker embed"]


class Kind(NamedTuple):
    """``commands``: what reads such a model here; none for a kind that cannot be read."""

    title: str
    objective: str
    commands: list[str] = []  # noqa: RUF012  (never changed)


PREDICTS_CLUSTERS = "predicts the cluster labels of masked frames"
CONTRASTS = "tells the quantised frame under a mask from distractors"
DISTILS = "predicts, for masked frames, the codes that its teacher assigns to the unmasked speech"
DISTILS_LAYERS = "predicts its teacher's layers at masked frames"
READS_TEXT = "predicts text from speech, symbol by symbol"
PRETRAINED = [*FRAMES, *START, *TUNE]

KINDS = {
    "dinosr": Kind("DinoSR", DISTILS, PRETRAINED),
    "dinosr_hubert": Kind("HuBERT-style model", PREDICTS_CLUSTERS, PRETRAINED),
    "spin": Kind("Spin", "predicts the code of a frame from the same frame in another voice", [*UNITS, *PRETRAINED]),
    "r_spin": Kind(
        "R-Spin",
        "predicts the code of a frame from the same frame in another voice and in noise, and acoustic pieces",
        [*UNITS, *PRETRAINED],
    ),
    "cpc": Kind("CPC", "tells the frames that follow from other frames", PRETRAINED),
    "cpc_deepcluster": Kind(
        "CPC with deep clustering", "tells the frames that follow from other frames, and predicts clusters", PRETRAINED
    ),
    "apc": Kind("APC", "predicts log-Mel frames from those before them", PRETRAINED),
    "mpc": Kind("MPC", "reconstructs masked log-Mel frames", PRETRAINED),
    "dino_speaker": Kind("DINO for speakers", "gives crops of a recording the same embedding", [*SPEAKERS, *START]),
    "ssrl_speaker": Kind(
        "SSRL",
        "classifies recordings by pseudo-labels of speakers, which its teacher refines",
        [*SPEAKERS, "dinosr speaker cluster --classifier", *START],
    ),
    "wav2vec2": Kind("wav2vec 2.0", CONTRASTS, PRETRAINED),
    "hubert": Kind("HuBERT", PREDICTS_CLUSTERS, PRETRAINED),
    "data2vec_audio": Kind("data2vec", DISTILS_LAYERS, PRETRAINED),
    "data2vec_multi": Kind("data2vec 2.0", DISTILS_LAYERS),
    "wav2vec": Kind("wav2vec", "tells the frames that follow from other frames"),
    "wav2vec_ctc": Kind("recogniser", "predicts symbols of the transcript by CTC", [*TRANSCRIBE, *FRAMES]),
    "hubert_ctc": Kind("recogniser", "predicts symbols of the transcript by CTC", FRAMES),
    "wav2vec_seq2seq": Kind("recogniser", "predicts the transcript by attention, symbol by symbol"),
    "hubert_seq2seq": Kind("recogniser", "predicts the transcript by attention, symbol by symbol"),
    "lstm_lm": Kind("language model (LSTM)", "predicts the next symbol", SCORE),
    "transformer_lm": Kind("language model (Transformer)", "predicts the next symbol", SCORE),
}
"""Name in fairseq's registry of models -> what it is."""

TASKS = {
    "language_modeling": ("language model", "predicts the next symbol"),
    "masked_lm": ("masked language model", "predicts masked symbols"),
    "translation": ("sequence-to-sequence model", "predicts a sequence from another, symbol by symbol"),
    "speech_to_text": ("sequence-to-sequence model", "predicts text from speech"),
    "text_to_speech": ("speech synthesis", "predicts log-Mel frames from text"),
}
"""fairseq's task -> title and objective of other models that it trains; also of longer names, such as
``translation_lev``."""


def kind_of_other(model: str, task: str) -> Kind:
    """Of a model of fairseq that is not in ``KINDS``."""
    name = max((known for known in TASKS if task.startswith(known)), key=len, default=None)
    title, objective = TASKS[name] if name else ("model of the task " + task, "")
    return Kind(f"{title} ({model})", objective)
