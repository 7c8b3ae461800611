"""The items of an ABX test: ``.item`` files of ZeroSpeech 2021, and items from a phone alignment.

A row is one segment of an utterance: ``#file onset offset #phone prev-phone next-phone speaker``, times in seconds,
separated by white space. The items of the protocol are triphones: onset and offset span all three phones, ``#phone`` is
the middle one, and the other two are its context.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ....errors import UserError, first_few
from ....files import read_lines, write_files
from ...alignment_files import MAX_SECONDS
from ...phones import PHONE_CLASSES, PhoneAlignment
from ...speech import librispeech_speaker

HEADER = "#file onset offset #phone prev-phone next-phone speaker"
SILENCE = PHONE_CLASSES["silence"]
SPANS = ("triphone", "phone")
REMEDY = "create it with `dinosr abx --phones TSV --write-items FILE`, or use one of ZeroSpeech 2021"


class Item(NamedTuple):
    utt: str
    onset: float  # seconds
    offset: float  # seconds
    phone: str
    previous: str
    following: str
    speaker: str


# ---- files -----------------------------------------------------------------------------------------------------------


def read_items(path: str | Path) -> list[Item]:
    """The rows of an ``.item`` file, in order. An onset equal to the offset is allowed, as in the published scorer.

    Such an item contains no frame.

    Raises:
        UserError: no such file, no header, no rows, or an invalid row or time.
    """
    path = Path(path)
    lines = read_lines(path, REMEDY)
    header = next(lines, "")
    if header.split() != HEADER.split():
        raise UserError(f"{path}: the first line is {header!r}; an .item file begins with {HEADER!r}")
    items = [_parse(path, number, line) for number, line in enumerate(lines, start=2)]
    if not items:
        raise UserError(f"{path}: contains a header but no items; {REMEDY}")
    return items


def _parse(path: Path, number: int, line: str) -> Item:
    fields = line.split()
    try:
        utt, onset, offset, phone, previous, following, speaker = fields
        item = Item(utt, float(onset), float(offset), phone, previous, following, speaker)
    except ValueError:
        raise UserError(
            f"{path}:{number}: expected the seven columns {HEADER!r} with times in seconds, found {line!r}"
        ) from None
    if not 0 <= item.onset <= item.offset <= MAX_SECONDS:
        raise UserError(
            f"{path}:{number}: an item from {item.onset} s to {item.offset} s; the onset must be at least 0, and the "
            f"offset not before the onset and at most {MAX_SECONDS} s"
        )
    return item


def write_items(path: str | Path, items: Iterable[Item]) -> None:
    """Write an ``.item`` file completely or not at all.

    Raises:
        UserError: a name is empty or contains white space, which separates the columns; the folder cannot be written.
    """
    path = Path(path)
    write_files(path.parent, {path.name: [HEADER, *(_line(path, item) for item in items)]}, "--write-items")


def _line(path: Path, item: Item) -> str:
    names = (item.utt, item.phone, item.previous, item.following, item.speaker)
    for name in names:
        if len(name.split()) != 1 or name != name.strip():
            raise UserError(
                f"{path}: {name!r} is not a valid name in an .item file, whose columns are separated by white space; "
                "rename it in the alignment"
            )
    return f"{item.utt} {item.onset:.6f} {item.offset:.6f} {item.phone} {item.previous} {item.following} {item.speaker}"


# ---- from an alignment -----------------------------------------------------------------------------------------------


def make_items(
    alignment: PhoneAlignment,
    speakers: Mapping[str, str] | Callable[[str], str] = librispeech_speaker,
    *,
    span: str = "triphone",
    min_count: int = 1,
    silence: Collection[str] = SILENCE,
) -> list[Item]:
    """Every phone that has a phone on both sides and can be compared, in the order of the alignment.

    Args:
        speakers: utterance -> speaker; with a mapping, only its utterances are used.
        span: ``"triphone"``: from the start of the previous phone to the end of the following one, as in ZeroSpeech
            2021; ``"phone"``: the middle phone alone.
        min_count: smaller groups of one context, speaker and phone are left out. 2 keeps only phones that can be A
            within a speaker.
        silence: phones that are neither centre nor context, in any case. If empty, they are phones like any other.

    Phones with a gap between them are not adjacent. Items that no comparison uses are also left out (see
    ``comparable``).

    Raises:
        UserError: unknown span, or no items remain.
    """
    if span not in SPANS:
        raise UserError(f"span '{span}': unknown; choose one of {', '.join(SPANS)}")
    speaker_of = speakers.__getitem__ if isinstance(speakers, Mapping) else speakers
    utts = [utt for utt in alignment.segments if not isinstance(speakers, Mapping) or utt in speakers]
    if not utts:
        raise UserError(
            f"{alignment.path}: none of its utterances ({first_few(list(alignment.segments))}) is in the manifest; "
            "give the manifest of the same corpus"
        )
    silent = {name.upper() for name in silence}
    triphones = [item for utt in utts for item in _triphones(alignment, utt, speaker_of(utt), span, silent)]
    items = comparable(triphones, min_count)
    if not items:
        raise UserError(
            f"{alignment.path}: none of {len(triphones)} triphones in {len(utts)} utterances can be compared: ABX "
            f"requires two phones in the same context by one speaker, each {min_count} times; give more speech"
            + (", or a lower --min-count" if min_count > 1 else "")
        )
    return items


def items_of_speech(items: Sequence[Item], utts: Collection[str], path: Path | None) -> list[Item]:
    """The items of these utterances, of the manifest ``path``. Raises UserError if nothing in them can be compared."""
    chosen = [item for item in items if item.utt in utts]
    if not chosen:
        names = first_few(list(dict.fromkeys(item.utt for item in items)))
        raise UserError(f"{path}: none of the {len(items)} items is in it ({names}); give items of the same speech")
    if not comparable(chosen):
        raise UserError(
            f"{path}: none of {len(chosen)} items in it can be compared: ABX requires two phones in the same context "
            "by one speaker; give more speech"
        )
    return chosen


def _triphones(alignment: PhoneAlignment, utt: str, speaker: str, span: str, silent: set[str]) -> Iterator[Item]:
    starts, phones = alignment.segments[utt]
    starts, ends = starts.tolist(), alignment.ends[utt].tolist()  # microseconds
    names = [alignment.names[phone] for phone in phones]
    reach = 1 if span == "triphone" else 0
    for i in range(1, len(names) - 1):
        if (
            silent.intersection(name.upper() for name in names[i - 1 : i + 2])
            or ends[i - 1] != starts[i]
            or ends[i] != starts[i + 1]
        ):
            continue
        yield Item(utt, starts[i - reach] / 1e6, ends[i + reach] / 1e6, names[i], names[i - 1], names[i + 1], speaker)


def comparable(items: Sequence[Item], min_count: int = 1) -> list[Item]:
    """The items whose group of context, speaker and phone has at least ``min_count`` items and is part of a comparison.

    A group can be A if its speaker says another phone in the same context (so that there is a B) and there is an X:
    a second item of the group, or an item of another speaker with the same phone and context. The result contains the
    groups that are A, B or X of such a comparison.
    """
    counts = Counter((item.previous, item.following, item.speaker, item.phone) for item in items)
    sizes = {group: size for group, size in counts.items() if size >= min_count}
    phones, speakers = defaultdict(set), defaultdict(set)  # by context and speaker; by context and phone
    for previous, following, speaker, phone in sizes:
        phones[previous, following, speaker].add(phone)
        speakers[previous, following, phone].add(speaker)
    required = set()
    for (previous, following, speaker, phone), size in sizes.items():
        phones_b, speakers_x = phones[previous, following, speaker], speakers[previous, following, phone]
        if len(phones_b) > 1 and (size > 1 or len(speakers_x) > 1):  # it can be A
            required |= {(previous, following, speaker, b) for b in phones_b}
            required |= {(previous, following, x, phone) for x in speakers_x}
    return [item for item in items if (item.previous, item.following, item.speaker, item.phone) in required]
