"""eSpeak NG from the wheel ``espeakng-loader``, through ctypes: text in, samples and timed ARPABET phones out.

The names and numbers of the C interface come from espeak-ng's ``src/include/espeak-ng/speak_lib.h``.
"""

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from dinosr_plugin.errors import UserError

SAMPLE_RATE = 22050  # Hz: the only rate that eSpeak synthesises at

# enum espeak_AUDIO_OUTPUT, espeakINITIALIZE_*, espeakCHARS_*, POS_*, enum espeak_PARAMETER, enum espeak_EVENT_TYPE
_AUDIO_OUTPUT_SYNCHRONOUS = 2  # espeak_Synth returns when the last sample has been handed to the callback
_INITIALIZE_PHONEME_EVENTS = 0x1  # without 0x2 (IPA) the events carry eSpeak's own mnemonics, which tell more apart
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_EVENT_LIST_TERMINATED, _EVENT_PHONEME = 0, 7

_VOLUME_WITHOUT_CLIPPING = 40  # of 100: the loud voice variants clip at the default; the level is set later anyway


class _EventId(ctypes.Union):
    """``espeak_EVENT.id``: a phoneme's mnemonic lies in ``string``, without a closing zero when it fills all 8 bytes."""

    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """``espeak_EVENT``."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms, rounded down: `sample` is the same moment, exactly
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Segment:
    """A stretch of speech: half-open range of samples at ``SAMPLE_RATE``, and what is said in it."""

    start: int
    end: int
    name: str  # an eSpeak mnemonic or, after `phones`, an ARPABET phone


class Espeak:
    """One talker: an eSpeak of its own, set to one voice. Use it as a context manager.

    eSpeak's state (phase, flutter, noise) is global to the loaded library, outlives ``espeak_Terminate`` and colours
    the next utterance. So every object loads a copy of the library of its own: what it says depends on its
    parameters and on what it said before, and on nothing that other objects in the process did.

    Args:
        voice: eSpeak voice with variant, such as ``en-us+f2``.
        pitch, pitch_range: 0 to 100, 50 is the voice's own.
        rate: words a minute, 80 to 450.

    Raises:
        UserError: the wheel is missing, or it does not hold the voice.
    """

    def __init__(self, voice: str, pitch: int = 50, pitch_range: int = 50, rate: int = 140) -> None:
        self._chunks: list[bytes] = []
        self._marks: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # kept: the library holds only its address
        library, data = wheel()
        self._lib = _private_copy(library)
        with _silent_stderr():
            found = self._lib.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode(), _INITIALIZE_PHONEME_EVENTS)
            if found != SAMPLE_RATE:
                raise UserError(f"eSpeak cannot read its data in {data}: pip install --force-reinstall espeakng-loader")
            self._lib.espeak_SetSynthCallback(self._callback)
            if not _has_variant(data, voice) or self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
                raise UserError(
                    f"eSpeak has no voice {voice!r}: the voices lie in {data}/lang, the variants in {data}/voices/!v"
                )
        for parameter, value in (
            (_RATE, rate),
            (_PITCH, pitch),
            (_RANGE, pitch_range),
            (_VOLUME, _VOLUME_WITHOUT_CLIPPING),
        ):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(1))  # espeak_Initialize has seeded it from the clock

    def __enter__(self) -> "Espeak":
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.espeak_Terminate()

    def speak(self, text: str) -> tuple[np.ndarray, list[Segment]]:
        """Say ``text``: int16 samples at ``SAMPLE_RATE``, and eSpeak's phonemes, contiguous, covering all of them."""
        self._chunks.clear()
        self._marks.clear()
        raw = text.encode()
        with _silent_stderr():
            status = self._lib.espeak_Synth(
                raw, ctypes.c_size_t(len(raw) + 1), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
            )
        if status != 0:
            raise RuntimeError(f"espeak_Synth returned {status} for {text!r}")
        wave = np.frombuffer(b"".join(self._chunks), dtype=np.int16)
        marks = [(0, "_"), *self._marks, (len(wave), "_")]
        return wave, [
            Segment(start, end, name) for (start, name), (end, _) in pairwise(marks) if end > start or name[0] != "_"
        ]

    def _receive(self, samples: int | None, count: int, events: "ctypes._Pointer[_Event]") -> int:
        """``t_espeak_callback``: a chunk of samples (none at the end of a text) and the events up to there."""
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        for event in _until_terminated(events):
            if event.type == _EVENT_PHONEME:
                mnemonic = event.id.string.decode("ascii", "replace").lstrip("',%=|\"")  # without the stress
                self._marks.append((event.sample, mnemonic or "_"))
        return 0  # go on


def _until_terminated(events: "ctypes._Pointer[_Event]") -> Iterator[_Event]:
    index = 0
    while events[index].type != _EVENT_LIST_TERMINATED:
        yield events[index]
        index += 1


def wheel() -> tuple[str, str]:
    """Paths of eSpeak's shared library and of its data; a UserError says what to install if they are missing."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            'the synthetic corpus requires eSpeak NG (GPL-3), which is not installed: pip install "dinosr-plugin[synth]"'
        ) from None
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


def _has_variant(data: str, voice: str) -> bool:
    """eSpeak itself says nothing about an unknown variant and speaks with the plain voice."""
    _, plus, variant = voice.partition("+")
    return not plus or (Path(data) / "voices" / "!v" / variant).is_file()


def _private_copy(library: str) -> ctypes.CDLL:
    """Load a copy of the library: the loader tells libraries apart by file, so this one starts with fresh state."""
    with tempfile.TemporaryDirectory(prefix="dinosr-espeak-", ignore_cleanup_errors=True) as folder:
        return ctypes.CDLL(shutil.copy(library, Path(folder) / Path(library).name))


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep what the C library prints away from the terminal (Python's own stderr cannot catch it)."""
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


# ---- from eSpeak's mnemonics to the 39 ARPABET phones ----

_CONSONANTS = {
    **{name: name.upper() for name in ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z")},
    **{"D": "DH", "N": "NG", "S": "SH", "T": "TH", "Z": "ZH", "dZ": "JH", "tS": "CH", "h": "HH", "j": "Y"},
    "t#": "T",  # the flap of "water": pronouncing dictionaries write T
    "t2": "T",
    "t[": "T",  # Caribbean: "bath" ends in a dental stop
    "n-": "N",  # syllabic: "wasn't"
    "r-": "R",  # linking: "four apples"
    ";": "",  # the glide of "the apple": the end of the vowel before it
}
_VOWELS = {
    **{"a": "AE", "aa": "AE", "A:": "AA", "0": "AA", "O:": "AO", "O2": "AO", "E": "EH"},
    **{"I": "IH", "I2": "IH", "I#": "IH", "i": "IY", "i:": "IY", "U": "UH", "u:": "UW"},
    **{"@": "AH", "@2": "AH", "a#": "AH", "V": "AH", "3:": "ER"},
    **{"eI": "EY", "aI": "AY", "OI": "OY", "aU": "AW", "oU": "OW"},
    **{"@L": "AH L", "aI@": "AY AH"},
}
_R_COLOURED = {  # one mnemonic, said with an R in America and without elsewhere
    "en-us": {
        "3": "ER",
        "aI3": "AY ER",
        "A@": "AA R",
        "O@": "AO R",
        "o@": "AO R",
        "e@": "EH R",
        "i@3": "IH R",
        "U@": "UH R",
    },
    "en": {"3": "AH", "A@": "AA", "O@": "AO", "o@": "AO", "e@": "EH AH", "i@3": "IY AH", "U@": "UH AH"},
}
_R_COLOURED["en-029"] = _R_COLOURED["en"]
ACCENTS = tuple(_R_COLOURED)

_VOWEL_NAMES = {*_VOWELS, *(name for names in _R_COLOURED.values() for name in names)}
_STOPS = {"b", "d", "g", "k", "p", "t", "t2", "t[", "tS", "dZ"}
_SHORT_PAUSE = int(0.040 * SAMPLE_RATE)  # samples; shorter ones are part of saying the next word, not silence
_SHORT_L = int(0.030 * SAMPLE_RATE)
_LONGEST_CLOSURE = int(0.080 * SAMPLE_RATE)


def phones(segments: list[Segment], wave: np.ndarray, accent: str) -> list[Segment]:
    """eSpeak's phonemes as ARPABET phones and ``SIL``: contiguous and covering the same samples as before.

    Args:
        segments, wave: what `Espeak.speak` returned.
        accent: one of ``ACCENTS``; the voice without its variant.

    Raises:
        KeyError: a mnemonic that has no phone here; the vocabulary's tests keep that from happening.
    """
    table = {**_CONSONANTS, **_VOWELS, **_R_COLOURED[accent]}
    timed = _with_closures(_with_final_l(_without_short_pauses(segments)), wave)
    found: list[Segment] = []
    for here, following in zip(timed, [*timed[1:], None], strict=True):
        names = "SIL" if here.name[0] == "_" else table[here.name]
        if following and names.endswith(" R") and table.get(following.name) == "R":
            names = names.removesuffix(" R")  # "mary": the R has a segment of its own
        found.extend(_share(here, names.split()))
    return _joined(found)


def _share(segment: Segment, names: list[str]) -> list[Segment]:
    """Cut a segment into equal parts, one a phone; no name at all marks what belongs to the phone before."""
    names = names or [""]
    edges = [segment.start + (segment.end - segment.start) * i // len(names) for i in range(len(names) + 1)]
    return [Segment(start, end, name) for name, (start, end) in zip(names, pairwise(edges), strict=True)]


def _joined(segments: list[Segment]) -> list[Segment]:
    """Let nameless segments lengthen the one before, make one silence of neighbouring ones, drop empty segments."""
    kept: list[Segment] = []
    for segment in segments:
        if segment.start == segment.end:
            continue
        if kept and (not segment.name or segment.name == kept[-1].name == "SIL"):
            kept[-1] = Segment(kept[-1].start, segment.end, kept[-1].name)
        else:
            kept.append(segment)
    return kept


def _without_short_pauses(segments: list[Segment]) -> list[Segment]:
    """Give a pause that nobody hears as one to the phoneme before it; the first and the last pause stay."""
    kept = segments[:1]
    for position, segment in enumerate(segments[1:], start=2):
        is_short = segment.name[0] == "_" and segment.end - segment.start < _SHORT_PAUSE
        if is_short and position < len(segments) and kept[-1].name[0] != "_":
            kept[-1] = Segment(kept[-1].start, segment.end, kept[-1].name)
        else:
            kept.append(segment)
    return kept


def _with_final_l(segments: list[Segment]) -> list[Segment]:
    """Give the L of "girl" the end of its vowel: eSpeak says it there and reports an L of no length."""
    timed = list(segments)
    for i in range(1, len(timed)):
        before, here = timed[i - 1], timed[i]
        if here.name == "l" and here.end - here.start < _SHORT_L and before.name in _VOWEL_NAMES:
            timed[i - 1 : i + 1] = _move_boundary(before, here, before.end - 2 * (before.end - before.start) // 5)
    return timed


def _with_closures(segments: list[Segment], wave: np.ndarray) -> list[Segment]:
    """Let a stop begin with its closure, as alignments of speech do: eSpeak reports its release.

    The closure is the near-silence just before, at most 80 ms and at most half of the phoneme before.
    """
    level = np.abs(wave.astype(np.float32))
    quiet = 0.02 * level.max(initial=1.0)
    timed = list(segments)
    for i in range(1, len(timed)):
        before, here = timed[i - 1], timed[i]
        if here.name in _STOPS and before.name[0] != "_":
            earliest = max(here.start - _LONGEST_CLOSURE, (before.start + before.end) // 2)
            loud = np.flatnonzero(level[earliest : here.start] > quiet)
            start = earliest + int(loud[-1]) + 1 if len(loud) else earliest
            timed[i - 1 : i + 1] = _move_boundary(before, here, start)
    return timed


def _move_boundary(before: Segment, here: Segment, boundary: int) -> list[Segment]:
    return [Segment(before.start, boundary, before.name), Segment(boundary, here.end, here.name)]
