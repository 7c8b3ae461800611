"""A small benchmark of words and grammar, spoken by the voices of ``dinosr synth``, in ZeroSpeech 2021's layout.

    lexical/dev/gold.csv, *.wav      a word and a non-word, in each voice
    syntactic/dev/gold.csv, *.wav    a grammatical and an ungrammatical sentence, in each voice
    lexical.tsv, syntactic.tsv       manifests of the two

Both sides of a pair have the same recording conditions (silence around them, noise), so that they differ in the speech
only. The voices are those of ``dinosr synth`` with the same seed, from the third on; these are training speakers in its
corpora of up to 14 speakers. The grammatical sentences belong to its dev part: no corpus with this seed trains on them.
"""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...files import output, write_lines
from ..conversion import write_sound
from . import espeak, grammar
from .corpus import Speaker, microphone, roster_speaker, sentences
from .minimal_pairs import Phones, SentencePair, sentence_pairs, word_pairs

_FIRST_VOICE = 2  # index of the first voice used: two are dev speakers in corpora of 8 to 14 speakers


@dataclass(frozen=True)
class Item:
    """One side of a pair: its text, and its fields in gold.csv except for file name and voice."""

    text: str
    fields: dict[str, str | int]


Pair = tuple[Item, Item]  # the correct one first


def make_benchmark(out: Path, pairs: int, voices: int, seed: int) -> dict[str, int]:
    """Writes the benchmark to the new folder ``out``.

    The same parameters give the same bytes, except for the folder's name in the manifests. The folder gets its name
    when it is complete.

    Args:
        out: the folder to create.
        pairs: number of sentence pairs, and maximum number of word pairs, of which the vocabulary has about 200.
        voices: number of voices that speak each pair.
        seed: determines the pairs and the voices.

    Returns:
        {"lexical": pairs, "syntactic": pairs}.

    Raises:
        UserError: ``out`` already exists or cannot be written, or eSpeak is missing.
    """
    espeak.library_paths()  # raises UserError, before anything is written, if eSpeak is missing
    out = Path(out).absolute()
    speakers = [roster_speaker(_FIRST_VOICE + index, "dev", seed) for index in range(voices)]
    sets = {"lexical": lexical_pairs(pairs, seed), "syntactic": syntactic_pairs(pairs, sentences(seed, speakers[0]))}
    with output(out, folder=True) as unfinished:
        for name, items in sets.items():
            rows = list(speak_set(unfinished / name / "dev", name, items, speakers, seed))
            write_lines(unfinished / name / "dev" / "gold.csv", table_lines([fields for fields, _ in rows]))
            manifest_rows = sorted(f"{fields['filename']}.wav\t{samples}" for fields, samples in rows)
            write_lines(unfinished / f"{name}.tsv", [str(out / name / "dev"), *manifest_rows])
    return {name: len(items) for name, items in sets.items()}


def lexical_pairs(count: int, seed: int) -> list[Pair]:
    def item(number: int, word: str, frequency: int | str, phones: Phones, correct: int) -> Item:
        sounds = {"phones": " ".join(phones), "length": len(phones)}
        return Item(word, {"id": number, "frequency": frequency, "word": word, **sounds, "correct": correct})

    return [
        (
            item(number, pair.word, pair.frequency, pair.phones, 1),
            item(number, pair.non_word, "", pair.non_phones, 0),
        )
        for number, pair in enumerate(word_pairs(count, seed), start=1)
    ]


def syntactic_pairs(count: int, texts: Iterator[str]) -> list[Pair]:
    def item(pair: SentencePair, number: int, text: str, correct: int) -> Item:
        return Item(
            grammar.punctuated(text),
            {"id": number, "type": pair.type, "subtype": pair.subtype, "transcription": text, "correct": correct},
        )

    pairs = enumerate(sentence_pairs(count, texts), start=1)
    return [(item(pair, number, pair.sentence, 1), item(pair, number, pair.non_sentence, 0)) for number, pair in pairs]


def speak_set(
    folder: Path, name: str, pairs: list[Pair], speakers: list[Speaker], seed: int
) -> Iterator[tuple[dict, int]]:
    """Writes both sides of every pair in every voice; yields each row of gold.csv and its number of samples.

    Which side is spoken first is random, because eSpeak's output depends slightly on the preceding utterance.
    """
    with tqdm(desc=name, total=len(speakers) * len(pairs), unit="pair", disable=None) as bar:
        for speaker in speakers:
            with espeak.Espeak(speaker.voice, speaker.pitch, speaker.pitch_range, speaker.rate) as talker:
                for number, pair in enumerate(pairs):
                    for side in np.random.default_rng([seed % 2**64, speaker.number, number]).permutation(2):
                        wave, _ = talker.speak(pair[side].text)
                        # the same for both sides
                        rng = np.random.default_rng([seed % 2**64, speaker.number, number, len(name)])
                        recorded, _ = microphone(wave, speaker, rng)
                        file = file_name(seed, name, speaker, pair[side])
                        write_sound(folder / f"{file}.wav", recorded)
                        yield {**pair[side].fields, "filename": file, "voice": speaker.number}, len(recorded)
                    bar.update()


def file_name(seed: int, name: str, speaker: Speaker, item: Item) -> str:
    """Hexadecimal digits, as in the original benchmark, which do not reveal which side is correct."""
    return hashlib.sha256(
        f"{seed}/{name}/{speaker.number}/{item.fields['id']}/{item.fields['correct']}".encode()
    ).hexdigest()[:12]


def table_lines(rows: list[dict]) -> list[str]:
    """Lines of gold.csv with a header, sorted by pair and voice as in the benchmark, the correct side first."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        ["id", "filename", "voice", *(key for key in rows[0] if key not in ("id", "filename", "voice"))],
        lineterminator="\n",
    )
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row["id"], row["voice"], -row["correct"])))
    return text.getvalue().splitlines()
