"""A small benchmark of words and grammar, spoken by the voices of ``dinosr synth``, in the layout of ZeroSpeech 2021's dataset.

    lexical/dev/gold.csv, *.wav      a word and a non-word, in each voice
    syntactic/dev/gold.csv, *.wav    a sentence and one that breaks a rule, in each voice
    lexical.tsv, syntactic.tsv       manifests of the two

Both sides of a pair are recorded alike (silence around them, noise), so that nothing but the speech tells them apart. The voices are the
third and following of ``dinosr synth`` with the same seed, which are training speakers of its corpora of up to 14 speakers; the sentences that
are right belong to its dev part: no corpus made with this seed trains on them.
"""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from ...errors import UserError
from ..manifest import unwritable, write_files
from . import espeak, grammar
from .corpus import SAMPLE_RATE, Speaker, fresh_partial, microphone, roster_speaker, sentences
from .minimal_pairs import sentence_pairs, word_pairs

_FIRST_VOICE = 2  # of the roster: two are dev speakers in corpora of 8 to 14
_FILES = {"lexical", "syntactic", "lexical.tsv", "syntactic.tsv"}


@dataclass(frozen=True)
class Item:
    """One side of a pair: what is said, and its fields in gold.csv but for file name and voice."""

    text: str
    fields: dict[str, str | int]


Pair = tuple[Item, Item]  # the right one first


def make_benchmark(out: Path, pairs: int, voices: int, seed: int) -> dict[str, int]:
    """Write the benchmark into the new folder ``out``; the same parameters give the same bytes (but for the folder's name in the manifests).

    It grows in ``OUT.partial`` and takes its name when it is whole.

    Args:
        pairs: of sentences, and at most so many of words: the vocabulary has about 200.
        voices: in which each pair is spoken.

    Returns:
        {"lexical": pairs, "syntactic": pairs}.

    Raises:
        UserError: ``out`` is there already or cannot be written, eSpeak is missing.
    """
    espeak.wheel()  # if it is missing, say so before anything is written
    out = Path(out).absolute()
    if out.exists():
        raise UserError(f"{out}: is there already; give another folder with --out, or remove it")
    speakers = [roster_speaker(_FIRST_VOICE + index, "dev", seed) for index in range(voices)]
    sets = {"lexical": lexical_pairs(pairs, seed), "syntactic": syntactic_pairs(pairs, sentences(seed, speakers[0]))}
    try:
        partial = fresh_partial(out, _FILES)
        for name, own in sets.items():
            rows = list(speak_set(partial / name / "dev", name, own, speakers, seed))
            write_files(partial / name / "dev", {"gold.csv": table_lines([fields for fields, _ in rows])})
            write_files(
                partial,
                {
                    f"{name}.tsv": [
                        str(out / name / "dev"),
                        *sorted(f"{fields['filename']}.wav\t{samples}" for fields, samples in rows),
                    ]
                },
            )
        partial.rename(out)
    except (OSError, soundfile.SoundFileError) as error:
        raise unwritable(out, str(error)) from error
    return {name: len(own) for name, own in sets.items()}


def lexical_pairs(count: int, seed: int) -> list[Pair]:
    return [
        (
            Item(
                pair.word,
                {
                    "id": number,
                    "frequency": pair.frequency,
                    "word": pair.word,
                    "phones": " ".join(pair.phones),
                    "length": len(pair.phones),
                    "correct": 1,
                },
            ),
            Item(
                pair.non_word,
                {
                    "id": number,
                    "frequency": "",
                    "word": pair.non_word,
                    "phones": " ".join(pair.non_phones),
                    "length": len(pair.non_phones),
                    "correct": 0,
                },
            ),
        )
        for number, pair in enumerate(word_pairs(count, seed), start=1)
    ]


def syntactic_pairs(count: int, texts: Iterator[str]) -> list[Pair]:
    def item(pair, number: int, text: str, correct: int) -> Item:
        return Item(
            grammar.punctuated(text),
            {"id": number, "type": pair.type, "subtype": pair.subtype, "transcription": text, "correct": correct},
        )

    found = enumerate(sentence_pairs(count, texts), start=1)
    return [(item(pair, number, pair.sentence, 1), item(pair, number, pair.non_sentence, 0)) for number, pair in found]


def speak_set(
    folder: Path, name: str, pairs: list[Pair], speakers: list[Speaker], seed: int
) -> Iterator[tuple[dict, int]]:
    """Write every side of every pair in every voice; yields its row of gold.csv and its samples.

    Which of a pair is said first is drawn: what eSpeak says depends a little on what it said before.
    """
    folder.mkdir(parents=True)
    with tqdm(desc=name, total=len(speakers) * len(pairs), unit="pair", disable=None) as bar:
        for speaker in speakers:
            with espeak.Espeak(speaker.voice, speaker.pitch, speaker.pitch_range, speaker.rate) as talker:
                for number, pair in enumerate(pairs):
                    for side in np.random.default_rng([seed % 2**64, speaker.number, number]).permutation(2):
                        wave, _ = talker.speak(pair[side].text)
                        rng = np.random.default_rng(
                            [seed % 2**64, speaker.number, number, len(name)]
                        )  # the same for both sides
                        recorded, _ = microphone(wave, speaker, rng)
                        file = file_name(seed, name, speaker, pair[side])
                        soundfile.write(folder / f"{file}.wav", recorded, SAMPLE_RATE, subtype="PCM_16")
                        yield {**pair[side].fields, "filename": file, "voice": speaker.number}, len(recorded)
                    bar.update()


def file_name(seed: int, name: str, speaker: Speaker, item: Item) -> str:
    """As the benchmark's: letters that do not give away which is which."""
    return hashlib.sha256(
        f"{seed}/{name}/{speaker.number}/{item.fields['id']}/{item.fields['correct']}".encode()
    ).hexdigest()[:12]


def table_lines(rows: list[dict]) -> list[str]:
    """A .csv table's lines, its columns first, sorted by pair and voice as the benchmark's, the right side before the wrong one."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        ["id", "filename", "voice", *(key for key in rows[0] if key not in ("id", "filename", "voice"))],
        lineterminator="\n",
    )
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row["id"], row["voice"], -row["correct"])))
    return text.getvalue().splitlines()
