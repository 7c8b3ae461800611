"""A corpus for probes: ``train.tsv`` and ``test.tsv`` of other speakers, phones, words and genders."""

from pathlib import Path

import numpy as np
import soundfile

from support.voices import RATE, voice

PHONES = {"AA": (700.0, 1200.0), "IY": (300.0, 2300.0), "UW": (350.0, 900.0), "SIL": None}  # -> formants
WORDS = {"AAIY": ("AA", "IY"), "UW": ("UW",), "AAUW": ("AA", "UW"), "IY": ("IY",)}
SPEAKERS = {"train": {"anna": 210.0, "ben": 110.0, "cleo": 190.0}, "test": {"dora": 200.0, "emil": 120.0}}  # -> Hz
UTTERANCES, WORDS_EACH, SECONDS = 3, 5, 0.1  # of a speaker; of an utterance; of a phone


def write_probe_corpus(folder: Path) -> None:
    """Fills ``folder`` with the corpus: 15 files of about a second."""
    rng = np.random.default_rng(0)
    genders = []
    for part, speakers in SPEAKERS.items():
        manifest, phones, words = [str(folder)], ["utt\tstart\tend\tphone"], ["utt\tstart\tend\tword"]
        for speaker, f0 in speakers.items():
            genders.append(f"{speaker}\t{'F' if f0 > 150 else 'M'}")
            (folder / speaker).mkdir(parents=True)
            for number in range(UTTERANCES):
                utt, chosen = f"{speaker}{number}", rng.permutation([*WORDS, *WORDS])[:WORDS_EACH]
                sounds = []
                for word in chosen:
                    begin = len(sounds) * SECONDS
                    for phone in (*WORDS[word], "SIL"):
                        start = len(sounds) * SECONDS
                        phones.append(f"{utt}\t{start:.2f}\t{start + SECONDS:.2f}\t{phone}")
                        sounds.append(sound(phone, f0))
                    words.append(f"{utt}\t{begin:.2f}\t{(len(sounds) - 1) * SECONDS:.2f}\t{word}")
                wave = np.concatenate(sounds) + rng.normal(0, 0.002, len(sounds) * int(SECONDS * RATE))
                soundfile.write(folder / f"{speaker}/{utt}.wav", wave, RATE)
                manifest.append(f"{speaker}/{utt}.wav\t{len(wave)}")
        for name, lines in (("tsv", manifest), ("phones.tsv", phones), ("words.tsv", words)):
            (folder / f"{part}.{name}").write_text("\n".join(lines) + "\n")
    (folder / "genders.tsv").write_text("\n".join(genders) + "\n")


def sound(phone: str, f0: float) -> np.ndarray:
    """(1600,) float32, or silence."""
    formants = PHONES[phone]
    samples = int(SECONDS * RATE)
    return np.zeros(samples, dtype=np.float32) if formants is None else voice(f0, formants, samples)
