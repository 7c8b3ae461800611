"""eSpeak NG, from the wheel ``espeakng-loader`` through ctypes: converts text to samples and timed ARPABET phones.

The names and numbers of the C interface are those of espeak-ng's ``src/include/espeak-ng/speak_lib.h``.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...errors import UserError

SAMPLE_RATE = 22050  # Hz; the only rate of eSpeak

# enum espeak_AUDIO_OUTPUT, espeakINITIALIZE_*, espeakCHARS_*, POS_*, enum espeak_PARAMETER, enum espeak_EVENT_TYPE
_AUDIO_OUTPUT_SYNCHRONOUS = 2  # espeak_Synth returns when the last sample has been passed to the callback
_INITIALIZE_PHONEME_EVENTS = 0x1  # without 0x2 (IPA), events have eSpeak's mnemonics, which distinguish more sounds
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_EVENT_LIST_TERMINATED, _EVENT_PHONEME = 0, 7

_VOLUME_WITHOUT_CLIPPING = 40  # of 100; loud voice variants clip at the default volume; the level is set later anyway


class _EventId(ctypes.Union):
    """``espeak_EVENT.id``: ``string`` is a phoneme's mnemonic, without a terminating zero if it has all 8 bytes."""

    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """``espeak_EVENT``."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms, rounded down; `sample` is the exact position
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Segment:
    """A phone and its half-open range of samples at ``SAMPLE_RATE``."""

    start: int
    end: int
    name: str  # an eSpeak mnemonic or, after `phones`, an ARPABET phone


class Espeak:
    """One instance of eSpeak, set to one voice. Use it as a context manager.

    eSpeak's state (phase, flutter, noise) is global to the loaded library, survives ``espeak_Terminate`` and affects
    the next utterance. Every object therefore loads its own copy of the library: its output depends on its parameters
    and its earlier utterances, but not on other objects in the process.

    Args:
        voice: eSpeak voice with variant, such as ``en-us+f2``.
        pitch, pitch_range: 0 to 100; 50 is the default of the voice.
        rate: words per minute, 80 to 450.

    Raises:
        UserError: the wheel is missing, or it does not contain the voice.
    """

    def __init__(self, voice: str, pitch: int = 50, pitch_range: int = 50, rate: int = 140) -> None:
        self._chunks: list[bytes] = []
        self._marks: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # an attribute, because the library stores only its address
        library, data = library_paths()
        self._lib = _private_copy(library)
        with _silent_stderr():
            rate_or_error = self._lib.espeak_Initialize(
                _AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode(), _INITIALIZE_PHONEME_EVENTS
            )
            if rate_or_error != SAMPLE_RATE:
                raise UserError(f"eSpeak cannot read its data in {data}; pip install --force-reinstall espeakng-loader")
            self._lib.espeak_SetSynthCallback(self._callback)
            if not _has_variant(data, voice) or self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
                raise UserError(
                    f"eSpeak has no voice {voice!r}; voices are in {data}/lang, and variants in {data}/voices/!v"
                )
        for parameter, value in (
            (_RATE, rate),
            (_PITCH, pitch),
            (_RANGE, pitch_range),
            (_VOLUME, _VOLUME_WITHOUT_CLIPPING),
        ):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(1))  # espeak_Initialize seeds it from the clock

    def __enter__(self) -> "Espeak":
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.espeak_Terminate()

    def speak(self, text: str) -> tuple[np.ndarray, list[Segment]]:
        """Synthesises ``text``: int16 samples at ``SAMPLE_RATE``, and contiguous phonemes that cover all of them."""
        self._chunks.clear()
        self._marks.clear()
        raw = text.encode()
        with _silent_stderr(), _deferred_signals():
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
        """``t_espeak_callback``: receives a chunk of samples (none at the end of a text) and its events."""
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        for event in _until_terminated(events):
            if event.type == _EVENT_PHONEME:
                mnemonic = event.id.string.decode("ascii", "replace").lstrip("',%=|\"")  # without stress marks
                self._marks.append((event.sample, mnemonic or "_"))
        return 0  # continue


def _until_terminated(events: "ctypes._Pointer[_Event]") -> Iterator[_Event]:
    index = 0
    while events[index].type != _EVENT_LIST_TERMINATED:
        yield events[index]
        index += 1


def library_paths() -> tuple[str, str]:
    """Paths of eSpeak's shared library and of its data. Raises UserError if the wheel is not installed."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            "the synthetic corpus requires eSpeak NG (GPL-3), which is not installed: "
            'pip install "dinosr-plugin[synth]"'
        ) from None
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


def _has_variant(data: str, voice: str) -> bool:
    """Whether the variant exists: eSpeak does not report an unknown one and uses the voice without a variant."""
    _, plus, variant = voice.partition("+")
    return not plus or (Path(data) / "voices" / "!v" / variant).is_file()


def _private_copy(library: str) -> ctypes.CDLL:
    """Loads a copy of the library, with fresh state: the dynamic loader loads each file once per process."""
    with tempfile.TemporaryDirectory(prefix="dinosr-espeak-", ignore_cleanup_errors=True) as folder:
        return ctypes.CDLL(shutil.copy(library, Path(folder) / Path(library).name))


@contextlib.contextmanager
def _deferred_signals() -> Iterator[None]:
    """Within this context signals wait: ctypes drops an exception that is raised in a callback of the C library."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in received:
            signal.raise_signal(number)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Suppresses what the C library prints to stderr, which ``contextlib.redirect_stderr`` does not affect."""
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


# ---- eSpeak's mnemonics and the 39 ARPABET phones --------------------------------------------------------------------

_CONSONANTS = {
    **{name: name.upper() for name in ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z")},
    **{"D": "DH", "N": "NG", "S": "SH", "T": "TH", "Z": "ZH", "dZ": "JH", "tS": "CH", "h": "HH", "j": "Y"},
    "t#": "T",  # the flap of "water": pronouncing dictionaries write T
    "t2": "T",
    "t[": "T",  # Caribbean: "bath" ends in a dental stop
    "n-": "N",  # syllabic: "wasn't"
    "r-": "R",  # linking: "four apples"
    ";": "",  # the glide of "the apple": part of the preceding vowel
}
_VOWELS = {
    **{"a": "AE", "aa": "AE", "A:": "AA", "0": "AA", "O:": "AO", "O2": "AO", "E": "EH"},
    **{"I": "IH", "I2": "IH", "I#": "IH", "i": "IY", "i:": "IY", "U": "UH", "u:": "UW"},
    **{"@": "AH", "@2": "AH", "a#": "AH", "V": "AH", "3:": "ER"},
    **{"eI": "EY", "aI": "AY", "OI": "OY", "aU": "AW", "oU": "OW"},
    **{"@L": "AH L", "aI@": "AY AH"},
}
_R_COLOURED = {  # mnemonics pronounced with an R in American English and without one elsewhere
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
_SPANISH = {  # ARPABET for the nearest sounds; LL, NY and RR (the trill) are not in it
    **{name: name.upper() for name in ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "w")},
    **{"B": "B", "D": "D", "Q": "G"},  # between vowels
    **{"**": "R", "R2": "RR", "T": "TH", "tS": "CH", "x": "HH", "N": "NG", "n^": "NY", "l^": "LL"},
    **{"j": "Y", "J^": "Y", ";": "Y", "dZ": "Y"},  # dZ: after a pause, N or L
    **{"a": "AA", "e": "EH", "E": "EH", "i": "IY", "o": "AO", "u": "UW"},
    **{"aI": "AA Y", "aU": "AA W", "eI": "EH Y", "oI": "AO Y"},
}
_PHONES = {accent: {**_CONSONANTS, **_VOWELS, **vowels} for accent, vowels in _R_COLOURED.items()}
_PHONES |= {"es": _SPANISH, "es-419": _SPANISH}
ACCENTS = tuple(_PHONES)

_VOWEL_NAMES = {*_VOWELS, *(name for names in _R_COLOURED.values() for name in names)}
_STOPS = {"b", "d", "g", "k", "p", "t", "t2", "t[", "tS", "dZ"}
_SHORT_PAUSE = int(0.040 * SAMPLE_RATE)  # samples; shorter pauses are part of the articulation, not silence
_SHORT_L = int(0.030 * SAMPLE_RATE)
_LONGEST_CLOSURE = int(0.080 * SAMPLE_RATE)


def phones(segments: list[Segment], wave: np.ndarray, accent: str) -> list[Segment]:
    """Converts eSpeak's phonemes to contiguous phones and ``SIL`` that cover the same samples.

    Args:
        segments, wave: output of `Espeak.speak`.
        accent: one of ``ACCENTS``; the voice without its variant.

    Raises:
        KeyError: a mnemonic without a phone; tests ensure that the vocabulary has none.
    """
    table = _PHONES[accent]
    timed = _with_closures(_with_final_l(_without_short_pauses(segments)), wave)
    parts: list[Segment] = []
    for here, following in zip(timed, [*timed[1:], None], strict=True):
        names = "SIL" if here.name[0] == "_" else table[here.name]
        if following and names.endswith(" R") and table.get(following.name) == "R":
            names = names.removesuffix(" R")  # "mary": the R has its own segment
        parts.extend(_share(here, names.split()))
    return _joined(parts)


def _share(segment: Segment, names: list[str]) -> list[Segment]:
    """Cuts a segment into equal parts, one per phone; without phones, one nameless part of the preceding phone."""
    names = names or [""]
    edges = [segment.start + (segment.end - segment.start) * i // len(names) for i in range(len(names) + 1)]
    return [Segment(start, end, name) for name, (start, end) in zip(names, pairwise(edges), strict=True)]


def _joined(segments: list[Segment]) -> list[Segment]:
    """Appends nameless segments to the preceding one, joins adjacent silences, drops empty segments."""
    joined: list[Segment] = []
    for segment in segments:
        if segment.start == segment.end:
            continue
        if joined and (not segment.name or segment.name == joined[-1].name == "SIL"):
            joined[-1] = Segment(joined[-1].start, segment.end, joined[-1].name)
        else:
            joined.append(segment)
    return joined


def _without_short_pauses(segments: list[Segment]) -> list[Segment]:
    """Appends inaudible pauses to the preceding phoneme, except for the first and the last pause."""
    merged = segments[:1]
    for position, segment in enumerate(segments[1:], start=2):
        is_short = segment.name[0] == "_" and segment.end - segment.start < _SHORT_PAUSE
        if is_short and position < len(segments) and merged[-1].name[0] != "_":
            merged[-1] = Segment(merged[-1].start, segment.end, merged[-1].name)
        else:
            merged.append(segment)
    return merged


def _with_final_l(segments: list[Segment]) -> list[Segment]:
    """Gives the L of "girl" the end of its vowel, where eSpeak pronounces it; eSpeak reports an L without duration."""
    timed = list(segments)
    for i in range(1, len(timed)):
        before, here = timed[i - 1], timed[i]
        if here.name == "l" and here.end - here.start < _SHORT_L and before.name in _VOWEL_NAMES:
            timed[i - 1 : i + 1] = _move_boundary(before, here, before.end - 2 * (before.end - before.start) // 5)
    return timed


def _with_closures(segments: list[Segment], wave: np.ndarray) -> list[Segment]:
    """Moves the start of stops from the release, which eSpeak reports, to the closure, as in alignments of real speech.

    The closure is the near-silence before the release, at most 80 ms and at most half of the preceding phoneme.
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
