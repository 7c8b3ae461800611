"""Trial lists: their format, names of parts, and what is drawn."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.speakers.recordings import file_of, read_recordings, select, speaker_of_name
from dinosr_plugin.evaluation.speakers.trials import (
    Trial,
    make_trials,
    pair_of,
    read_trials,
    units_of,
    write_trials,
)


def manifest_of(folder, lengths: dict[str, list[int]]):
    """A manifest of files that need not exist."""
    rows = [f"{speaker}/{n}.wav\t{samples}" for speaker, all_ in lengths.items() for n, samples in enumerate(all_)]
    (folder / "speech.tsv").write_text("\n".join([str(folder), *rows]) + "\n")
    return folder / "speech.tsv"


# ---- names of parts --------------------------------------------------------------------------------------------------


def test_names_of_parts(tmp_path):
    whole, _ = read_recordings(manifest_of(tmp_path, {"anna": [1000, 500]}))
    part = whole.part(10, 200)
    assert (part.name, part.samples, part.path, part.length) == ("anna/0.wav@10-200", 190, whole.path, 1000)
    assert part.part(20, 30).name == "anna/0.wav@20-30"  # samples of the whole file
    assert file_of(part.name) == file_of(whole.name) == "anna/0.wav"
    assert speaker_of_name("1970/28415/1970-28415-0003.flac@0-99") == "1970"
    for other in ("a@b/0.wav", "anna/0.wav@5", "anna/0.wav@-5", "anna/0.wav@5-6x", "@5-6", "a.wav@" + 19 * "1" + "-2"):
        assert file_of(other) == other


def test_recordings_and_parts_are_selected_once_in_the_manifests_order(tmp_path):
    recordings = read_recordings(manifest_of(tmp_path, {"anna": [1000], "ben": [500]}))
    names = ["ben/0.wav", "anna/0.wav@500-1000", "anna/0.wav@0-500", "ben/0.wav", "anna/0.wav"]
    chosen = select(recordings, names, "list")
    assert [one.name for one in chosen] == ["anna/0.wav@0-500", "anna/0.wav", "anna/0.wav@500-1000", "ben/0.wav"]
    assert [(one.start, one.end) for one in chosen] == [(0, 500), (0, 1000), (500, 1000), (0, 500)]


def test_names_that_cannot_be_selected(tmp_path):
    recordings = read_recordings(manifest_of(tmp_path, {"anna": [1000]}))
    with pytest.raises(UserError, match=r"^list: 4 file\(s\) are not in the manifest \(a, b, c@1-2, ...\); give"):
        select(recordings, ["a", "b", "c@1-2", "d", "anna/0.wav", "a"], "list")
    for part in ("0-1001", "5-5", "6-5"):
        with pytest.raises(UserError, match=f"^list: anna/0.wav@{part} is not a part of the file, which has 1000 samp"):
            select(recordings, [f"anna/0.wav@{part}"], "list")
    (tmp_path / "twice.tsv").write_text(f"{tmp_path}\na/0.wav\t5\na/0.wav\t5\n")
    with pytest.raises(UserError, match="twice.tsv: a/0.wav is listed twice; remove"):
        read_recordings(tmp_path / "twice.tsv")


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_list_is_read_as_it_was_written(tmp_path):
    trials = [Trial(True, "a/1.wav", "a/2.wav@5-6"), Trial(False, "a/1.wav", "ü/1.wav")]
    write_trials(tmp_path / "list.txt", trials)
    assert (tmp_path / "list.txt").read_text() == "1 a/1.wav a/2.wav@5-6\n0 a/1.wav ü/1.wav\n"
    assert read_trials(tmp_path / "list.txt") == trials


@pytest.mark.parametrize("line", ["", "1 a", "2 a b", "a b 1", "1 a b 0.5", "1  "])
def test_lines_that_are_not_trials(line, tmp_path):
    (tmp_path / "list.txt").write_text(f"1 a b\n{line}\n0 a c\n")
    with pytest.raises(UserError, match=r"^.*list.txt line 2: not a trial; a line is `1 FILE FILE` for the same speak"):
        read_trials(tmp_path / "list.txt")


def test_an_empty_list(tmp_path):
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(UserError, match="list.txt: empty list; a line is"):
        read_trials(tmp_path / "list.txt")


# ---- what is drawn ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_numbers_of_pairs(number):
    a, b = pair_of(number)
    assert 0 <= a < b and b * (b - 1) // 2 + a == number


def test_all_pairs_if_there_are_few(tmp_path):
    lengths = {"anna": [800] * 3, "ben": [800] * 2, "cleo": [800]}
    drawn = make_trials(manifest_of(tmp_path, lengths), per_speaker=1000)
    files = [f"{speaker}/{n}.wav" for speaker, all_ in lengths.items() for n in range(len(all_))]
    pairs = [frozenset(trial[1:]) for trial in drawn.trials]
    assert Counter(pairs) == Counter(map(frozenset, combinations(files, 2))) and drawn.speakers == 3
    assert all(trial.same == (trial.first[0] == trial.second[0]) for trial in drawn.trials)


@pytest.mark.parametrize("halves", [False, True])
def test_as_many_of_each_kind_for_each_speaker(halves, tmp_path):
    manifest = manifest_of(tmp_path, {f"s{n:02}": [900] * 30 for n in range(12)})
    trials = make_trials(manifest, per_speaker=20, halves=halves).trials
    counts = Counter((trial.same, trial.first[:3]) for trial in trials)
    assert set(counts.values()) == {20} and len(counts) == 24
    assert len({frozenset(trial[1:]) for trial in trials}) == len(trials) == 480
    partners = Counter(trial.second[:3] for trial in trials if not trial.same)
    assert len(partners) == 12 and max(partners.values()) < 40


def test_the_seed_decides(tmp_path):
    manifest = manifest_of(tmp_path, {f"s{n}": [40000] * 9 for n in range(4)})
    options = {"per_speaker": 5, "seconds": 1.5}
    assert make_trials(manifest, **options) == make_trials(manifest, **options)
    other = make_trials(manifest, **options, seed=1)
    assert other.trials != make_trials(manifest, **options).trials
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    assert make_trials(manifest, **options, seed=1) == other


def test_halves(tmp_path):
    trials = make_trials(manifest_of(tmp_path, {"a": [1001], "b": [500], "c": [30]}), halves=True).trials
    same, other = ([trial[1:] for trial in trials if trial.same == kind] for kind in (True, False))
    assert same == [
        ("a/0.wav@0-500", "a/0.wav@500-1001"),
        ("b/0.wav@0-250", "b/0.wav@250-500"),
        ("c/0.wav@0-15", "c/0.wav@15-30"),
    ]
    firsts, seconds = zip(*same)
    assert sorted(other) == [(x, y) for x in firsts for y in seconds if x[0] != y[0]]


@pytest.mark.parametrize("halves", [False, True])
def test_random_parts(halves, tmp_path):
    lengths = {f"s{n}": [64000 + 1000 * n, 80000, 31999] for n in range(5)}
    drawn = make_trials(manifest_of(tmp_path, lengths), halves=halves, seconds=2)
    names = {name for trial in drawn.trials for name in trial[1:]}
    parts = {name: tuple(map(int, name.split("@")[1].split("-"))) for name in names}
    assert {end - start for start, end in parts.values()} == {32000}
    assert len(names) == 5 * 2 * (2 if halves else 1)  # one part of each, in all trials
    assert len({start for start, _ in parts.values()}) > 8
    assert all(end <= lengths[name[:2]][int(name[3])] for name, (_, end) in parts.items())
    what = "halves of 5 recording(s)" if halves else "5 recording(s)"
    assert drawn.notes == [f"{what} are shorter than 2 s (s0/2.wav, s1/2.wav, s2/2.wav, ...); left out"]


def test_corpora_without_trials(tmp_path):
    for lengths, seconds in (({"anna": [800, 900]}, None), ({"anna": [800, 900], "ben": [700]}, 0.05)):
        with pytest.raises(UserError, match=r"speech.tsv: 1 speaker\(s\) with long enough recordings, and trials need"):
            make_trials(manifest_of(tmp_path, lengths), seconds=seconds)
    with pytest.raises(UserError, match="speech.tsv: no speaker has two long enough recordings.*add --halves"):
        make_trials(manifest_of(tmp_path, {"anna": [800], "ben": [700]}))
    (tmp_path / "speech.tsv").write_text(f"{tmp_path}\na/0.wav\t800\n1.wav\t800\n")
    with pytest.raises(UserError, match=r"1 file\(s\) are in no folder \(1.wav\); put the files of each speaker"):
        make_trials(tmp_path / "speech.tsv")
    (tmp_path / "speech.tsv").write_text(f"{tmp_path}\na/0 1.wav\t800\n")
    with pytest.raises(UserError, match=r"1 file\(s\) have a space in their path \(a/0 1.wav\).*rename them"):
        make_trials(tmp_path / "speech.tsv")


# ---- what intervals resample -----------------------------------------------------------------------------------------


def test_speakers_are_resampled_if_all_folders_agree_with_the_labels():
    trials = [Trial(True, "a/0.wav@0-5", "a/0.wav@5-9"), Trial(False, "a/1.wav", "b/1.wav")]
    assert units_of(trials) == ("speakers", ["a", "a"], ["a", "b"])
    for other in (
        Trial(True, "a/1.wav", "b/1.wav"),
        Trial(False, "a/1.wav", "a/2.wav"),
        Trial(False, "1.wav", "2.wav"),
    ):
        kind, first, second = units_of([*trials, other])
        assert kind == "recordings" and first[0] == second[0] == "a/0.wav" and second[2] == other.second
