"""``.item`` files: reading, writing, creation from an alignment, and selection of comparable items."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.abx.items import (
    HEADER,
    Item,
    comparable,
    make_items,
    read_items,
    write_items,
)
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.evaluation.speech import librispeech_speaker, manifest_speakers

ITEMS = [Item("1-2-0003", 0.23, 0.51, "AE", "K", "T", "1"), Item("1-2-0003", 12.345678, 13.0, "IH", "K", "T", "1")]


@pytest.fixture
def align(tmp_path):
    def align(**utterances: str) -> PhoneAlignment:
        """An alignment with phones of 0.1 s; ``_`` is a gap. The utterance ``a__1`` is named ``a-1-1``."""
        rows = ["utt\tstart\tend\tphone"]
        for utt, phones in utterances.items():
            name = utt.replace("__", "-1-")
            rows += [
                f"{name}\t{i / 10:.2f}\t{(i + 1) / 10:.2f}\t{phone}"
                for i, phone in enumerate(phones.split())
                if phone != "_"
            ]
        (tmp_path / "some.phones.tsv").write_text("\n".join(rows) + "\n")
        return PhoneAlignment.read(tmp_path / "some.phones.tsv")

    return align


# ---- files -----------------------------------------------------------------------------------------------------------


def test_written_items_are_read_back(tmp_path):
    write_items(tmp_path / "new" / "some.item", ITEMS)
    text = (tmp_path / "new" / "some.item").read_text()
    assert text.splitlines() == [HEADER, "1-2-0003 0.230000 0.510000 AE K T 1", "1-2-0003 12.345678 13.000000 IH K T 1"]
    assert read_items(tmp_path / "new" / "some.item") == ITEMS
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["some.item"]


def test_columns_of_a_published_file_may_be_separated_by_any_white_space(tmp_path):
    (tmp_path / "some.item").write_text(
        HEADER.replace(" ", "\t") + "\n6295-244435-0009\t0.2925\t0.4725  IH L NG 6295\n"
    )
    assert read_items(tmp_path / "some.item") == [Item("6295-244435-0009", 0.2925, 0.4725, "IH", "L", "NG", "6295")]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the first line is ''"),
        ("u 0 1 AE K T s\n", "the first line is 'u 0 1 AE K T s'; an .item file begins with '#file onset"),
        (HEADER + "\n", "a header but no items"),
        (HEADER + "\nu 0 1 AE K T s\nu 0 1 AE K T\n", r"some.item:3: expected the seven columns"),
        (HEADER + "\nu zero 1 AE K T s\n", r"some.item:2: expected the seven columns"),
        (HEADER + "\nu 1 0.9 AE K T s\n", r"some.item:2: an item from 1.0 s to 0.9 s"),
        (HEADER + "\nu -1 1 AE K T s\n", r"some.item:2: an item from -1.0 s"),
        (HEADER + "\nu 0 inf AE K T s\n", r"some.item:2: an item from 0.0 s to inf s"),
        (HEADER + "\nu nan 1 AE K T s\n", r"some.item:2: an item from nan s"),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "some.item").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_items(tmp_path / "some.item")
    assert "\n" not in str(error.value)


def test_an_item_of_length_zero_is_allowed(tmp_path):
    (tmp_path / "some.item").write_text(HEADER + "\nu 1 1 AE K T s\n")
    assert read_items(tmp_path / "some.item") == [Item("u", 1.0, 1.0, "AE", "K", "T", "s")]


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="absent.item: no such file"):
        read_items(tmp_path / "absent.item")


@pytest.mark.parametrize(
    "field, name", [("utt", "my file"), ("phone", ""), ("speaker", "anna\t"), ("previous", "a\nb")]
)
def test_names_with_white_space_are_rejected(tmp_path, field, name):
    with pytest.raises(UserError, match="is not a valid name in an .item file"):
        write_items(tmp_path / "some.item", [ITEMS[0], ITEMS[1]._replace(**{field: name})])
    assert not list(tmp_path.iterdir())


# ---- speakers --------------------------------------------------------------------------------------------------------


def test_speakers_from_names_and_folders(tmp_path):
    assert librispeech_speaker("7367-86737-0000") == "7367"
    for name in ("one", "-1-2", "a-b", "a-b-c-d"):
        with pytest.raises(UserError, match="not named SPEAKER-CHAPTER-NUMBER"):
            librispeech_speaker(name)
    (tmp_path / "some.tsv").write_text(f"{tmp_path}\nanna/x/one.wav\t400\n84/121/84-121-0001.flac\t400\ntwo.wav\t400\n")
    assert manifest_speakers(tmp_path / "some.tsv") == {"one": "anna", "84-121-0001": "84", "two": "unknown"}


# ---- from an alignment -----------------------------------------------------------------------------------------------


def test_comparable_triphones(align):
    alignment = align(a__1="SIL K AE T SIL K IH T", a__2="K AE T AE T")
    items = make_items(alignment)
    assert items == [
        Item("a-1-1", 0.1, 0.4, "AE", "K", "T", "a"),
        Item("a-1-1", 0.5, 0.8, "IH", "K", "T", "a"),
        Item("a-1-2", 0.0, 0.3, "AE", "K", "T", "a"),  # T AE T: no other phone in this context
    ]
    spans = [(item.onset, item.offset) for item in make_items(alignment, span="phone")]
    assert spans == [(0.2, 0.3), (0.6, 0.7), (0.1, 0.2)]


def test_silence_gaps_and_ends_of_utterances_are_not_contexts(align):
    # SIL K AE, K sil AE etc. are not triphones, nor is AE _ T; the first K has no previous phone
    alignment = align(a__1="K AE T SIL K IH sil K IH T _ K AE _ T AE", a__2="K AE T")
    assert [(item.previous, item.phone, item.following) for item in make_items(alignment)] == [
        ("K", p, "T") for p in ("AE", "IH", "AE")
    ]
    with_silence = make_items(align(a__1="K SIL T K AE T", a__2="K SIL T"), silence=())
    assert {item.phone for item in with_silence} == {"SIL", "AE"}


def test_a_mapping_of_speakers_selects_the_utterances(align):
    alignment = align(one="K AE T K IH T K AE T", two="K AE T K IH T K AE T")
    with pytest.raises(UserError, match="'one' is not named SPEAKER-CHAPTER-NUMBER"):
        make_items(alignment)
    items = make_items(alignment, {"two": "berta", "three": "clara"})
    assert {(item.utt, item.speaker) for item in items} == {("two", "berta")} and len(items) == 3


def test_nothing_to_compare_and_unknown_span(align):
    with pytest.raises(UserError, match=r"none of its utterances \(a-1-1\) is in the manifest"):
        make_items(align(a__1="K AE T"), {"other": "anna"})
    with pytest.raises(UserError, match="each 2 times; give more speech, or a lower --min-count"):
        make_items(align(a__1="K AE T K IH T K AE T"), min_count=2)
    with pytest.raises(UserError, match="some.phones.tsv: none of 2 triphones in 2 utterances can be compared"):
        make_items(align(a__1="K AE T", b__1="K IH T"))
    with pytest.raises(UserError, match="span 'word': unknown; choose one of triphone, phone"):
        make_items(align(a__1="K AE T"), span="word")


def group(phone: str, speaker: str, count: int = 1, previous: str = "K", following: str = "T") -> list:
    return [Item("u", 0.0, 1.0, phone, previous, following, speaker)] * count


@pytest.mark.parametrize(
    "groups, expected",
    [
        ([("AE", "a", 2)], []),  # no B
        ([("AE", "a", 1), ("IH", "a", 1)], []),  # no X
        ([("AE", "a", 2), ("IH", "a", 1)], ["AE a", "IH a"]),  # within: AE is A and X, IH is B
        ([("AE", "a", 1), ("IH", "a", 1), ("AE", "b", 1)], ["AE a", "AE b", "IH a"]),  # across: X is from b
        ([("AE", "a", 1), ("IH", "a", 1), ("EH", "b", 1)], []),
        ([("AE", "a", 2), ("IH", "a", 1), ("EH", "b", 5)], ["AE a", "IH a"]),
        ([("AE", "a", 2), ("IH", "a", 1), ("IH", "b", 1)], ["AE a", "IH a", "IH b"]),  # X of A = IH
    ],
)
def test_groups_without_a_comparison_are_left_out(groups, expected):
    items = [item for each in groups for item in group(*each)]
    assert sorted({f"{item.phone} {item.speaker}" for item in comparable(items)}) == expected


def test_contexts_and_minimum_counts():
    items = group("AE", "a", 3) + group("IH", "a", 2) + group("EH", "a", 1) + group("UW", "a", 2, previous="P")
    assert Counter(item.phone for item in comparable(items)) == {"AE": 3, "IH": 2, "EH": 1}
    assert Counter(item.phone for item in comparable(items, min_count=2)) == {"AE": 3, "IH": 2}
    assert comparable(items, min_count=3) == []


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("xyz"), st.sampled_from("KP")), max_size=12))
def test_exactly_the_items_of_comparisons_remain(choices):
    items = [
        Item(str(i), 0.0, 1.0, phone, context, "T", speaker) for i, (phone, speaker, context) in enumerate(choices)
    ]
    required = set()
    for a in items:
        of_speaker = [b for b in items if b.speaker == a.speaker and b.previous == a.previous and b.phone != a.phone]
        of_phone = [x for x in items if x.phone == a.phone and x.previous == a.previous and x != a]
        if of_speaker and of_phone:
            required |= {a, *of_speaker, *of_phone}
    assert comparable(items) == [item for item in items if item in required]


def test_a_real_alignment(librispeech_mini):
    items = make_items(PhoneAlignment.read(librispeech_mini / "dev.phones.tsv"))
    assert len(items) == 9268 and len({item.speaker for item in items}) == 4
    groups = defaultdict(int)
    for item in items:
        groups[item.previous, item.following, item.speaker, item.phone] += 1
    assert not {"SIL"} & {name for previous, following, _, phone in groups for name in (previous, following, phone)}
    assert all(item.onset < item.offset for item in items)
