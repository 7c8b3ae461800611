"""Arrays whose files claim something else than they contain."""

import io
import zipfile

import numpy as np
import pytest

from dinosr_plugin.data import arrays
from dinosr_plugin.data.arrays import ArrayArchive, map_array


def header(shape: tuple, dtype: str = "<f4", data: bytes = b"") -> bytes:
    """An ``.npy`` file with this header and this content."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def archive_of(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", data)
    return file.getvalue()


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}]), allow_pickle=True)
    return file.getvalue()


GOOD = header((2, 3), data=np.arange(6, dtype=np.float32).tobytes())
BAD = {
    "nothing": b"",
    "text": b"words " * 100,
    "cut": GOOD[:-1],
    "cut header": GOOD[:20],
    "10^12 numbers": header((10**6, 10**6), data=bytes(100)),
    "10^30 numbers": header((10**15, 10**15), data=bytes(100)),
    "negative": header((-1, 3), data=bytes(100)),
    "objects": pickled(),
    "another version": GOOD[:6] + b"\x09\x00" + GOOD[8:],
    "not a header": GOOD.replace(b"descr", b"other"),
    "not Python": GOOD.replace(b"{", b"("),
}


def test_valid_files_are_read(tmp_path):
    (tmp_path / "a.npy").write_bytes(GOOD)
    (tmp_path / "a.npz").write_bytes(archive_of(GOOD))
    with ArrayArchive(tmp_path / "a.npz") as archive:
        for array in (map_array(tmp_path / "a.npy"), archive["a"], archive["a"]):
            assert np.array_equal(array, np.arange(6).reshape(2, 3)) and array.dtype == np.float32


@pytest.mark.parametrize("fault", BAD)
def test_bad_arrays(fault, tmp_path):
    (tmp_path / "a.npy").write_bytes(BAD[fault])
    (tmp_path / "a.npz").write_bytes(archive_of(BAD[fault]))
    with pytest.raises(ValueError, match="not an array, or truncated"):
        map_array(tmp_path / "a.npy")
    with ArrayArchive(tmp_path / "a.npz") as archive, pytest.raises(ValueError, match="array a: "):
        archive["a"]


def test_an_archive_is_not_an_array_and_an_array_not_an_archive(tmp_path):
    (tmp_path / "a.npy").write_bytes(archive_of(GOOD))
    (tmp_path / "a.npz").write_bytes(GOOD)
    with pytest.raises(ValueError, match="archive instead of an array"):
        map_array(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="not an archive"):
        ArrayArchive(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no such file"):
        map_array(tmp_path / "none.npy")


def test_a_member_that_unpacks_to_more_than_the_bound_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_COMPRESSED", 100_000)
    (tmp_path / "a.npz").write_bytes(archive_of(header((100_000,), data=bytes(400_000))))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    with ArrayArchive(tmp_path / "a.npz") as archive, pytest.raises(ValueError, match="400128 bytes in a file of"):
        archive["a"]


def test_a_damaged_or_missing_member(tmp_path):
    data = bytearray(archive_of(GOOD))
    (tmp_path / "a.npz").write_bytes(data)
    with ArrayArchive(tmp_path / "a.npz") as archive, pytest.raises(ValueError, match="array b: "):
        archive["b"]
    for place in range(40, 90, 7):
        damaged = bytearray(data)
        damaged[place] ^= 255
        (tmp_path / "a.npz").write_bytes(damaged)
        with ArrayArchive(tmp_path / "a.npz") as archive, pytest.raises(ValueError, match="array a: "):
            archive["a"]
