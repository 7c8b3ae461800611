"""What an ABX test compares: ``.item`` files of ZeroSpeech 2021, and making one from a phone alignment.

A row is one stretch of an utterance: ``#file onset offset #phone prev-phone next-phone speaker``, times in seconds, white space between.
The protocol's items are triphones: onset and offset hold all three phones, ``#phone`` is the one in the middle, the other two its context.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ....data.manifest import read_lines, write_files
from ....errors import UserError
from ...phones import PHONE_CLASSES, PhoneAlignment
from ...speech import librispeech_speaker

HEADER = "#file onset offset #phone prev-phone next-phone speaker"
SILENCE = PHONE_CLASSES["silence"]
SPANS = ("triphone", "phone")
REMEDY = "make it with `dinosr abx --phones TSV --write-items FILE`, or take one of ZeroSpeech 2021"


class Item(NamedTuple):
    utt: str
    onset: float  # seconds
    offset: float  # seconds
    phone: str
    previous: str
    following: str
    speaker: str


# ---- files ------------------------------------------------------------------------------------------------------------------


def read_items(path: str | Path) -> list[Item]:
    """The rows of an ``.item`` file, in order. A row of no length is allowed, as in the published scorer: it holds no frame.

    Raises:
        UserError: no such file, no header, no rows, or a row of another form or with times that make no stretch.
    """
    path = Path(path)
    lines = read_lines(path, REMEDY)
    header = next(lines, "")
    if header.split() != HEADER.split():
        raise UserError(f"{path}: the first line is {header!r}; an .item file begins with {HEADER!r}")
    items = [_parse(path, number, line) for number, line in enumerate(lines, start=2)]
    if not items:
        raise UserError(f"{path}: a header and no items; {REMEDY}")
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
    if not 0 <= item.onset <= item.offset < float("inf"):
        raise UserError(
            f"{path}:{number}: an item from {item.onset} s to {item.offset} s; times count from 0 and the offset comes after the onset"
        )
    return item


def write_items(path: str | Path, items: Iterable[Item]) -> None:
    """Write an ``.item`` file whole or not at all.

    Raises:
        UserError: a name is empty or holds white space, which separates the columns; the folder cannot be written.
    """
    path = Path(path)
    write_files(path.parent, {path.name: [HEADER, *(_line(path, item) for item in items)]})


def _line(path: Path, item: Item) -> str:
    names = (item.utt, item.phone, item.previous, item.following, item.speaker)
    for name in names:
        if len(name.split()) != 1 or name != name.strip():
            raise UserError(
                f"{path}: {name!r} cannot stand in an .item file, where white space separates the columns; rename it in the alignment"
            )
    return f"{item.utt} {item.onset:.6f} {item.offset:.6f} {item.phone} {item.previous} {item.following} {item.speaker}"


# ---- from an alignment ------------------------------------------------------------------------------------------------------


def make_items(
    alignment: PhoneAlignment,
    speakers: Mapping[str, str] | Callable[[str], str] = librispeech_speaker,
    *,
    span: str = "triphone",
    min_count: int = 1,
    silence: Collection[str] = SILENCE,
) -> list[Item]:
    """Every phone that has a phone on both sides and something to be compared with, in order of the alignment.

    Args:
        speakers: utterance -> speaker; of a mapping, only its utterances are used.
        span: ``"triphone"``: from the start of the phone before to the end of the phone after, as ZeroSpeech 2021 has it;
            ``"phone"``: the phone in the middle alone.
        min_count: smaller groups of one context, speaker and phone are left out. 2 leaves only phones that can be A within a speaker.
        silence: phones that are neither centre nor context, in capitals or not. An empty collection makes them phones like any other.

    Phones with a gap between them are no neighbours. Left out besides: items that no comparison needs (see ``comparable``).

    Raises:
        UserError: unknown span, or nothing is left.
    """
    if span not in SPANS:
        raise UserError(f"span '{span}' is not known; choose one of {', '.join(SPANS)}")
    known = speakers.__getitem__ if isinstance(speakers, Mapping) else speakers
    utts = [utt for utt in alignment.segments if not isinstance(speakers, Mapping) or utt in speakers]
    if not utts:
        some = ", ".join(list(alignment.segments)[:3])
        raise UserError(
            f"{alignment.path}: none of its utterances ({some} ...) is in the manifest; give the manifest of the same corpus"
        )
    silent = {name.upper() for name in silence}
    triphones = [item for utt in utts for item in _triphones(alignment, utt, known(utt), span, silent)]
    items = comparable(triphones, min_count)
    if not items:
        raise UserError(
            f"{alignment.path}: none of {len(triphones)} triphones in {len(utts)} utterances can be compared: it takes two phones "
            f"between the same neighbours by one speaker, each {min_count} times; give more speech"
            + (", or a lower --min-count" if min_count > 1 else "")
        )
    return items


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
    """The items whose group of context, speaker and phone has at least ``min_count`` and takes part in a comparison.

    That is: its speaker says another phone in the same context (so that there is a B), and there is an X: a second item of A's group,
    or another speaker's of the same phone and context. Groups that are A, B or X of such a comparison stay.
    """
    counts = Counter((item.previous, item.following, item.speaker, item.phone) for item in items)
    sizes = {group: size for group, size in counts.items() if size >= min_count}
    phones, speakers = defaultdict(set), defaultdict(set)  # of a context and speaker; of a context and phone
    for previous, following, speaker, phone in sizes:
        phones[previous, following, speaker].add(phone)
        speakers[previous, following, phone].add(speaker)
    needed = set()
    for (previous, following, speaker, phone), size in sizes.items():
        beside, others = phones[previous, following, speaker], speakers[previous, following, phone]
        if len(beside) > 1 and (size > 1 or len(others) > 1):  # it can be A
            needed |= {(previous, following, speaker, b) for b in beside} | {
                (previous, following, x, phone) for x in others
            }
    return [item for item in items if (item.previous, item.following, item.speaker, item.phone) in needed]
