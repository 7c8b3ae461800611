"""Reading text, locking, and writing output under a temporary name."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin import files
from dinosr_plugin.errors import UserError
from dinosr_plugin.files.paths import unreadable

REMEDY = "give another file"
HOLD = """
import sys, time
from dinosr_plugin import files
with files.claim(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder():
    """Start a process that claims a path and sleeps."""
    started = []

    def hold(path: Path) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()


# ---- which files may be read -----------------------------------------------------------------------------------------


def test_the_kind_of_a_path(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    expected = {"file": "file", "link": "file", "broken": "nothing", "pipe": "other", "": "folder", "file/x": "nothing"}
    assert {name: files.kind_of(tmp_path / name) for name in expected} == expected
    assert files.kind_of("/dev/null") == "other"


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_the_system_refuses_is_one_line(name, tmp_path):
    with pytest.raises(UserError, match="cannot be used") as caught:
        files.is_file(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("read", [files.read_text, files.read_json, files.open_file])
def test_what_is_not_a_file_is_refused_at_once(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, wrong in (("none", "no such file"), ("", "is a folder"), ("pipe", "is a pipe")):
        with pytest.raises(UserError, match=f"{wrong}.*; {REMEDY}"):
            read(tmp_path / path, REMEDY)


# ---- text ------------------------------------------------------------------------------------------------------------

LINES = st.lists(st.text(st.characters(blacklist_characters="\0\r\n\ufeff", blacklist_categories=("Cs",))), min_size=1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@given(lines=LINES)
def test_text_in_every_encoding_and_with_every_line_break(tmp_path_factory, encoding, end, lines):
    path = tmp_path_factory.mktemp("text") / "x.txt"
    path.write_bytes(end.join([*lines, ""]).encode(encoding))
    assert list(files.read_lines(path, REMEDY)) == lines


@pytest.mark.parametrize(
    "text", ["ÄB".encode("latin-1"), "AB".encode("utf-16-le"), b"A\0B", b"\xff\xfeA", b"\xfe\xff\xd8\x00"]
)
def test_other_encodings_are_refused(text, tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(text)
    with pytest.raises(UserError, match="x.txt.*not UTF-8 text"):
        files.read_text(path, REMEDY)


@pytest.mark.parametrize("text", ["", "[]", "1", "{", "[" * 100_000, '{"a": nope}'])
def test_only_an_object_is_json(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match="x.json"):
        files.read_json(path, REMEDY)


@pytest.mark.parametrize("text", [b'{"a": 1' + b"0" * 5000 + b"}", b"\xef\xbb\xbf{", b'{"a": "\0"}'])
def test_json_that_cannot_be_read_is_one_line(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match="x.json") as caught:
        files.read_json(path, REMEDY)
    assert len(str(caught.value)) < 300


def test_json_with_a_byte_order_mark(tmp_path):
    (tmp_path / "x.json").write_text('{"a": "Ä"}', encoding="utf-8-sig")
    assert files.read_json(tmp_path / "x.json", REMEDY) == {"a": "Ä"}


def test_a_line_or_a_file_that_is_too_long_is_not_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_text("1234\n12\n")
    monkeypatch.setattr(files.text, "MAX_LINE", 6)
    assert list(files.read_lines(path, REMEDY)) == ["1234", "12"]
    path.write_text("1234\n1234567\n")
    with pytest.raises(UserError, match="x.txt line 2: longer than 6 characters"):
        list(files.read_lines(path, REMEDY))
    monkeypatch.setattr(files.text, "MAX_TEXT", 10)
    with pytest.raises(UserError, match="x.txt: larger than"):
        files.read_text(path, REMEDY)


def test_a_damaged_log_can_be_read(tmp_path):
    path = tmp_path / "x.log"
    path.write_bytes(b"good\n\xff\n\0\0\n")
    assert list(files.read_lines(path, REMEDY, tolerate_damage=True)) == ["good", "\ufffd", "\0\0"]


@dataclass
class Example:
    count: int
    rate: float | None
    names: list[str]
    source: dict[str, Any] = field(default_factory=dict)
    whole: bool = False


GOOD = {"count": 3, "rate": 50, "names": ["a"], "source": {"b": [1]}, "whole": True}


def test_a_record_of_the_stated_types(tmp_path):
    assert files.to_record(Example, GOOD) == Example(3, 50, ["a"], {"b": [1]}, True)
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"count": 1, "rate": None, "names": []}))
    assert files.read_record(path, Example, REMEDY) == Example(1, None, [])
    path.write_text(json.dumps({**GOOD, "count": "3"}))
    with pytest.raises(UserError, match='x.json: field count is "3", which is not of type int; give another file'):
        files.read_record(path, Example, REMEDY)


@pytest.mark.parametrize(
    "name, value",
    [
        ("count", "3"), ("count", 3.0), ("count", True), ("count", None), ("count", 1 << 60), ("rate", "50"),
        ("rate", float("nan")), ("rate", float("inf")), ("rate", 10**400), ("rate", True), ("names", "a"),
        ("names", [1]), ("names", {"a": 1}), ("source", []), ("source", 1), ("whole", 1), ("other", 1),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_named(name, value):
    with pytest.raises(ValueError, match=f"field {name} is"):
        files.to_record(Example, {**GOOD, name: value})
    with pytest.raises(ValueError, match="field count is missing"):
        files.to_record(Example, {"names": [], "rate": None})


# ---- output ----------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_output_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "x.txt"
    with files.output(path) as unfinished:
        unfinished.write_text("1")
        assert not path.exists()
    assert (path.read_text(), names(path.parent)) == ("1", ["x.txt"])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_remains_of_output_that_failed(error, tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(error), files.output(path) as unfinished:
        unfinished.write_text("half")
        raise error
    assert (path.read_text(), names(tmp_path)) == ("before", ["x.txt"])


def test_a_folder_as_output(tmp_path):
    with files.output(tmp_path / "new") as unfinished:
        unfinished.mkdir()
        (unfinished / "x").touch()
    assert names(tmp_path / "new") == ["x"] and names(tmp_path) == ["new"]


def test_a_full_disk_is_one_line(tmp_path):
    message = r"--out .*cannot be written \(No space left on device\); free some space"
    with pytest.raises(UserError, match=message), files.output(tmp_path / "x") as unfinished:
        unfinished.touch()
        Path("/dev/full").write_bytes(b"x")
    assert names(tmp_path) == []


def test_a_path_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x", tmp_path / ("x" * 5000), tmp_path / "a\0b", tmp_path):
        with pytest.raises(UserError, match="give"), files.output(path):
            pytest.fail("the context was entered")


@pytest.mark.parametrize("kind", ["folder", "file", "nothing yet"])
def test_what_another_process_claims_is_refused_until_it_is_killed(kind, tmp_path, holder):
    path = tmp_path / "out"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.touch()
    process = holder(path)
    message = rf"another process \(process {process.pid} on .*\) is writing there"
    with pytest.raises(UserError, match=message), files.claim(path):
        pytest.fail("the context was entered")
    process.kill()
    process.wait()
    with files.claim(path):
        pass
    assert [name for name in names(tmp_path) if name != "out"] == []


def test_claims_of_one_process_nest(tmp_path, holder):
    with files.claim(tmp_path):
        with files.claim(tmp_path):
            pass
        script = HOLD.replace("time.sleep(60)", "pass")
        other = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
        assert "is writing there" in other.stderr  # the inner claim has not released the outer one
    assert names(tmp_path) == []


def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    claim = files.claim(tmp_path)
    claim.__enter__()
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    claim.__exit__(None, None, None)
    try:
        script = HOLD.replace("time.sleep(60)", "pass")
        other = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
        assert (other.returncode, other.stdout) == (0, "held\n")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.join()


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    for name in (".x.unfinished.123", ".y.unfinished.123", ".x.1", "x.unfinished.1"):
        (tmp_path / name).touch()
    (tmp_path / ".x.unfinished.124").mkdir()
    with files.output(tmp_path / "x") as unfinished:
        unfinished.touch()
    assert names(tmp_path) == [".x.1", ".y.unfinished.123", "x", "x.unfinished.1"]


def test_unfinished_output_of_a_living_process_is_kept(tmp_path, holder):
    holder(tmp_path / "y")
    (tmp_path / ".y.unfinished.123").touch()
    with files.claim(tmp_path):
        assert ".y.unfinished.123" in names(tmp_path)


def test_leftovers_in_a_claimed_folder_are_removed(tmp_path):
    (tmp_path / ".y.unfinished.123").touch()
    with files.claim(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", tmp_path / "pipe"):
        with pytest.raises(UserError, match="is a pipe or a device; give the name of a file"), files.output(path):
            pytest.fail("the context was entered")


def test_folders_that_remain_empty_are_removed(tmp_path):
    for claim in (files.output, files.claim_folder):
        with pytest.raises(KeyboardInterrupt), claim(tmp_path / "a" / "b" / "c"):
            raise KeyboardInterrupt
    assert names(tmp_path) == []
    with files.claim_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "x").touch()
    assert names(tmp_path / "a") == ["x"]


def test_an_error_about_another_file_is_not_one_about_the_output(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.txt"), files.output(tmp_path / "x"):
        (tmp_path / "none.txt").read_text()


def test_files_of_a_set_get_their_names_in_order_and_only_together(tmp_path, monkeypatch):
    renamed = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: renamed.append(Path(new).name) or replace(old, new))
    files.write_files(tmp_path / "new", {"b": ["1", "2"], "a": b"3"})
    assert renamed == ["b", "a"] and (tmp_path / "new" / "b").read_text() == "1\n2\n"

    def lines():
        yield "4"
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="--out .*a: cannot be written .No space left on device"):
        files.write_files(tmp_path / "new", {"b": ["5"], "a": lines()})
    assert (tmp_path / "new" / "b").read_text() == "1\n2\n" and names(tmp_path / "new") == ["a", "b"]


def test_an_empty_folder_can_become_an_output_and_a_full_one_cannot(tmp_path):
    with files.output(tmp_path, folder=True) as unfinished:
        unfinished.mkdir()
        (unfinished / "x").touch()
    assert names(tmp_path) == ["x"]
    with pytest.raises(UserError, match="already exists; give a new folder"), files.output(tmp_path, folder=True):
        pytest.fail("the context was entered")


def test_files_in_a_claimed_folder_need_no_lock_of_their_own(tmp_path):
    with files.claim_folder(tmp_path), files.output(tmp_path / "sub" / "x") as unfinished:
        unfinished.touch()
        with files.claim_folder(tmp_path / "sub"):  # removes leftovers, and not what this process is writing
            assert names(tmp_path / "sub") == [unfinished.name]
    assert names(tmp_path / "sub") == ["x"]


def test_waiting_for_another_process(tmp_path, holder, caplog):
    process = holder(tmp_path / "x")
    with pytest.raises(UserError, match="another process"), files.claim(tmp_path / "x", wait=0.3):
        pytest.fail("the context was entered")
    threading.Timer(0.3, process.kill).start()
    with files.claim(tmp_path / "x", "--out x", wait=60):
        pass
    (record,) = caplog.records
    assert record.getMessage().startswith(f"--out x: waiting for another process (process {process.pid} on ")


READ = HOLD.replace("claim", "read_lock")


def test_a_write_lock_fails_while_another_process_holds_a_read_lock(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", READ, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with files.read_lock(tmp_path / "x"):
        pass
    with pytest.raises(files.Occupied), files.write_lock(tmp_path / "x"):  # the first process still holds its lock
        pytest.fail("the context was entered")
    first.kill()
    first.wait()
    with files.write_lock(tmp_path / "x"):
        pass
    assert names(tmp_path) == []


def test_temporary_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"dinosr-{os.geteuid()}-0123").mkdir()
    (tmp_path / "other").mkdir()
    with files.temporary_folder() as folder:
        assert names(tmp_path) == sorted([f".{folder.name}.lock", folder.name, "other"])
        with files.temporary_folder() as second:
            assert folder.is_dir() and second != folder
    assert names(tmp_path) == ["other"]


@pytest.mark.parametrize(
    "number, remedy",
    [
        (errno.ENOSPC, "free some space"),
        (errno.ENOENT, "restore it"),
        (errno.EACCES, "correct its permissions"),
        (errno.EROFS, "give another folder"),
        (errno.ENAMETOOLONG, "give a shorter name"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_an_error_of_the_system_names_the_file_and_the_remedy(number, remedy):
    message = str(files.system_error(OSError(number, os.strerror(number), "a/b\n.txt")))
    assert message.startswith(f"a/b\\n.txt: {os.strerror(number)}; ") and remedy in message


@pytest.mark.parametrize(
    "number, remedy",
    {
        errno.EMFILE: "close other files",
        errno.EACCES: "correct its permissions",
        errno.EINVAL: "give a manifest",
    }.items(),
)
def test_the_remedy_for_an_unreadable_file_suits_the_error(number, remedy):
    error = unreadable("train.tsv", OSError(number, os.strerror(number)), "give a manifest")
    assert remedy in str(error)
