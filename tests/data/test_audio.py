"""Audio files: parts equal the whole, headers are checked before anything is decoded, copies are exact.

Damage is also tested with the tools that read files.
"""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.data import audio, conversion
from dinosr_plugin.data.audio import (
    AudioError,
    OtherAudio,
    parts_are_exact,
    read_header,
    read_part,
    read_sound,
    read_wave,
)
from dinosr_plugin.data.conversion import MonoFile, convert, read_whole_at_16k
from dinosr_plugin.errors import UserError

SAMPLES = 50_000
CODECS = [
    (format, subtype)
    for format in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "W64")
    for subtype in soundfile.available_subtypes(format)
]


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    rng = np.random.default_rng(0)
    return 0.2 * np.sin(np.cumsum(rng.uniform(0.05, 0.3, SAMPLES))) * rng.uniform(0.5, 1, SAMPLES)


@pytest.fixture(scope="module")
def flac(sound, tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.flac"
    soundfile.write(path, sound, 16000)
    return path, soundfile.read(path, dtype="float32")[0]


@given(start=st.integers(0, SAMPLES - 1), length=st.integers(1, SAMPLES))
def test_any_part(flac, start, length):
    path, whole = flac
    length = min(length, SAMPLES - start)
    assert np.array_equal(read_part(path, SAMPLES, start, length), whole[start : start + length])


@pytest.mark.parametrize("format, subtype", CODECS, ids="-".join)
def test_exact_codecs_are_exact(sound, tmp_path, format, subtype):
    path = tmp_path / "sound"
    try:
        soundfile.write(path, sound, 16000, format=format, subtype=subtype)
        whole, _ = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        pytest.skip(f"libsndfile cannot write it: {error}")
    assert parts_are_exact(path) == subtype.startswith(("PCM_", "FLOAT", "DOUBLE"))
    samples = len(whole)
    assert read_header(path).samples == samples and np.array_equal(read_wave(path, samples), whole)
    for start in np.random.default_rng(1).integers(0, SAMPLES - 9000, 20 if parts_are_exact(path) else 2):
        part, tolerance = read_part(path, samples, int(start), 9000), 1e-6 if format == "MP3" else 0
        np.testing.assert_allclose(part, whole[start : start + 9000], rtol=0, atol=tolerance)


def test_unreadable_parts(flac, tmp_path):
    path, _ = flac
    with pytest.raises(AudioError, match="16000 Hz, 1 channel.* instead of 8000 Hz"):
        read_part(path, SAMPLES, 0, 10, 8000)
    assert not parts_are_exact(tmp_path / "none.wav") and parts_are_exact(path)
    with pytest.raises(AudioError, match="50000 samples, but 50001 in the manifest"):
        read_part(path, SAMPLES + 1, 0, 10)
    with pytest.raises(AudioError, match="truncated"):
        read_part(path, SAMPLES, SAMPLES - 5, 10)
    with pytest.raises(AudioError, match="no such file"):
        read_part(tmp_path / "none.wav", 10, 0, 10)


# ---- headers ---------------------------------------------------------------------------------------------------------


def wav(
    path: Path, riff: int | None = None, data: int | None = None, keep: int | None = None, more: bytes = b""
) -> Path:
    """A WAV file of 1000 samples with these lengths in its header; None: the right ones. ``keep``: bytes of sound."""
    samples = np.arange(1000, dtype="<i2").tobytes()[:keep]
    size = len(samples) + len(more)
    head = b"RIFF" + struct.pack("<I", 36 + size if riff is None else riff) + b"WAVEfmt "
    head += struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    path.write_bytes(head + b"data" + struct.pack("<I", len(samples) if data is None else data) + samples + more)
    return path


WHOLE = {  # lengths of the file and of the samples
    "right": {},
    "the size of the file": {"riff": 2044},
    "far too long": {"riff": 10**6},
    "too short": {"riff": 100},
    "no length of the file": {"riff": 0},
    "a stream": {"riff": 0xFFFFFFFF, "data": 0xFFFFFFFF},
    "a stream of 2 GiB": {"riff": 0x7FFFFFFF, "data": 0x7FFFFFDB},
    "no padding byte": {"keep": 1999, "data": 2000},
    "more chunks, cut": {"riff": 3000, "more": b"LIST" + struct.pack("<I", 900) + b"INFO"},
}
UNFINISHED = {
    "no lengths": {"riff": 0, "data": 0},
    "an empty file's": {"riff": 36, "data": 0},
    "8": {"riff": 8, "data": 0},
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_wrong_length_of_a_wav_file_loses_no_sample(case, tmp_path):
    path = wav(tmp_path / "a.wav", **WHOLE[case])
    header = read_header(path)
    assert header.samples == (999 if "padding" in case else 1000) and not header.unfinished
    assert np.array_equal(read_wave(path, header.samples) * 32768, np.arange(header.samples))


@pytest.mark.parametrize("case", UNFINISHED)
def test_a_header_without_lengths_means_all_samples_that_follow(case, tmp_path):
    path = wav(tmp_path / "a.wav", **UNFINISHED[case])
    header = read_header(path)
    assert header.samples == 1000 and header.unfinished == (case != "8")  # libsndfile knows this one itself
    assert np.array_equal(read_wave(path, 1000) * 32768, np.arange(1000))
    assert np.array_equal(read_part(path, 1000, 400, 100) * 32768, np.arange(400, 500))
    assert read_sound(path).finite
    assert convert(path, tmp_path / "b.flac").samples == 1000
    assert np.array_equal(soundfile.read(tmp_path / "b.flac", dtype="int16")[0], np.arange(1000))


def test_samples_that_are_missing_are_not_taken_for_a_wrong_length(tmp_path):
    for keep in (1990, 1000, 2):
        with pytest.raises(AudioError, match="truncated: shorter than its header says"):
            read_header(wav(tmp_path / "a.wav", data=2000, keep=keep))
    empty = wav(tmp_path / "a.wav", keep=0, more=b"LIST" + struct.pack("<I", 4) + b"INFO")
    with pytest.raises(AudioError, match="contains no samples"):
        read_header(empty)


@pytest.mark.parametrize("format, endian", [("AIFF", "FILE"), ("WAV", "FILE"), ("WAV", "BIG"), ("FLAC", "FILE")])
def test_half_a_file_is_truncated(format, endian, sound, tmp_path):
    path = tmp_path / "a"
    soundfile.write(path, sound, 16000, format=format, subtype="PCM_16", endian=endian)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="truncated"):
        read_header(path)


def claiming_flac(path: Path, sound) -> Path:
    """A FLAC file whose header states 2^36 - 1 samples."""
    soundfile.write(path, sound, 16000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[21] |= 15
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    return path


@pytest.fixture
def undecoded(monkeypatch):
    """Decoding fails the test."""
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))


def test_length_and_format_are_compared_before_anything_is_decoded(sound, tmp_path, undecoded):
    with pytest.raises(AudioError, match="68719476735 samples, but 50000 in the manifest"):
        read_wave(claiming_flac(tmp_path / "a.flac", sound), SAMPLES)
    soundfile.write(tmp_path / "b.flac", np.stack([sound] * 2, axis=1), 8000)
    with pytest.raises(OtherAudio, match="8000 Hz, 2 channel"):
        read_wave(tmp_path / "b.flac", SAMPLES)
    soundfile.write(tmp_path / "c.flac", sound, 16000)
    with pytest.raises(AudioError, match="50000 samples, but 100 in the manifest"):
        read_part(tmp_path / "c.flac", 100, 0, 100)


def test_more_samples_than_in_the_manifest_are_not_decoded(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.flac", np.zeros(30 * audio.BLOCK, dtype=np.int16), 16000)
    decoded, read = [], soundfile.SoundFile.read

    def counted(self, *arguments, **options):
        decoded.append(block := read(self, *arguments, **options))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    assert read_sound(tmp_path / "a.flac", 16000).silent
    assert sum(map(len, decoded)) < 20000


def test_what_both_header_and_manifest_claim_is_not_allocated(sound, tmp_path):
    with pytest.raises(AudioError, match="truncated"):
        read_wave(claiming_flac(tmp_path / "a.flac", sound), (1 << 36) - 1)
    with pytest.raises(AudioError, match="truncated"):
        read_header(tmp_path / "a.flac")


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 2**31 - 1, 2**31, 2**32 - 1])
def test_rates_that_no_recording_has(rate, tmp_path):
    path = wav(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", rate)
    path.write_bytes(data)
    for read in (
        read_header,
        read_sound,
        lambda path: read_wave(path, 1000),
        lambda path: convert(path, tmp_path / "b"),
    ):
        with pytest.raises(AudioError, match="its header states|unreadable"):
            read(path)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("channels", [0, 1025, 65535])
def test_numbers_of_channels_that_no_recording_has(channels, tmp_path):
    path = wav(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[22:24] = struct.pack("<H", channels)
    path.write_bytes(data)
    with pytest.raises(AudioError, match="unreadable"):
        read_header(path)


def test_what_is_not_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    names = {
        "pipe": "a pipe",
        "": "a folder",
        "none": "no such file",
        "empty": "zero bytes",
        "a\0b": "name cannot be used",
    }
    for name, message in {**names, "x" * 5000: "unreadable .*name too long"}.items():
        for read in (read_header, read_sound, lambda path: read_wave(path, 1), lambda path: MonoFile(path).__enter__()):
            with pytest.raises(AudioError, match=f"(?i){message}"):
                read(tmp_path / name)
        assert not parts_are_exact(tmp_path / name)


# ---- 16 kHz mono -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "format, subtype", [("WAV", "GSM610"), ("WAV", "PCM_16"), ("OGG", "VORBIS"), ("AU", "G721_32")]
)
@settings(max_examples=20, deadline=None)
@given(pieces=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 9000)).map(sorted), max_size=5))
def test_pieces_of_a_file_are_those_of_the_whole(sound, tmp_path_factory, format, subtype, pieces):
    path = tmp_path_factory.getbasetemp() / f"pieces.{subtype}"
    if not path.exists():
        soundfile.write(path, sound[:9000], 16000, format=format, subtype=subtype)
    whole, _ = soundfile.read(path, dtype="float32")
    with MonoFile(path) as file:
        for start, stop in pieces:
            assert np.array_equal(file.read(start, stop), whole[start:stop])
            assert file.peak <= np.abs(whole).max()
        with pytest.raises(AudioError, match="truncated"):
            file.read(len(whole) - 5, len(whole) + 1)


def int16(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16")[0]


@pytest.mark.parametrize("rate, channels", [(16000, 1), (44100, 2)])
def test_floats_above_full_scale_are_scaled_down_and_not_clipped(rate, channels, tmp_path):
    wave = np.sin(np.arange(3 * rate) / rate * 2 * np.pi * 200).astype(np.float32)
    for name, peak in (("plain", 0.5), ("loud", 8), ("extreme", 1e30)):
        soundfile.write(tmp_path / "in.wav", np.stack([peak * wave] * channels, 1), rate, subtype="FLOAT")
        assert convert(tmp_path / "in.wav", tmp_path / f"{name}.flac").peak == pytest.approx(peak, rel=1e-3)
    plain, loud, extreme = (int16(tmp_path / f"{name}.flac").astype(int) for name in ("plain", "loud", "extreme"))
    assert (
        np.abs(loud - 2 * plain).max() <= 40 and np.abs(extreme - loud).max() <= 1
    )  # 40: the last one, 32768, is clipped
    assert len(loud) == 48000 and (np.abs(loud) > 32764).mean() < 0.05


SQUARE = np.repeat(np.array([-32768, 32767] * 500, dtype=np.int16), 16)


def test_integers_at_full_scale_are_unchanged_at_16_khz(tmp_path):
    soundfile.write(tmp_path / "in.wav", SQUARE, 16000)
    assert convert(tmp_path / "in.wav", tmp_path / "out.flac").peak == 1
    assert np.array_equal(int16(tmp_path / "out.flac"), SQUARE)


def test_what_resampling_adds_to_full_scale_is_not_clipped(tmp_path):
    soundfile.write(tmp_path / "in.wav", SQUARE, 8000)
    soundfile.write(tmp_path / "half.wav", SQUARE // 2, 8000)
    copy, half = (convert(tmp_path / f"{name}.wav", tmp_path / f"{name}.flac") for name in ("in", "half"))
    assert copy.peak > 1.1 and half.peak < 1
    full, half_size = (int16(tmp_path / f"{name}.flac").astype(int) for name in ("in", "half"))
    assert np.abs(full - half_size * 2 / copy.peak).max() <= 3 and np.abs(full).max() in (32766, 32767)
    assert np.abs(read_whole_at_16k(tmp_path / "in.wav", 1)).max() == 1


@pytest.mark.parametrize("rate", [16000, 8000])
def test_of_channels_that_cancel_the_louder_one_is_used(rate, sound, tmp_path):
    quiet, loud = -0.5 * sound, 0.5 * sound + 0.001
    soundfile.write(tmp_path / "in.wav", np.stack([quiet, loud], 1), rate, subtype="FLOAT")
    soundfile.write(tmp_path / "loud.wav", loud, rate, subtype="FLOAT")
    assert convert(tmp_path / "in.wav", tmp_path / "out.flac").channel == 1
    assert convert(tmp_path / "loud.wav", tmp_path / "loud.flac").channel is None
    assert np.array_equal(int16(tmp_path / "out.flac"), int16(tmp_path / "loud.flac"))
    assert np.array_equal(read_whole_at_16k(tmp_path / "in.wav", 1), read_whole_at_16k(tmp_path / "loud.wav", 1))


@pytest.mark.parametrize("other", [0, -0.9, 1, 0.1])
def test_other_channels_are_averaged(other, sound, tmp_path):
    channels = np.stack([0.5 * sound, other * 0.5 * sound], 1)
    soundfile.write(tmp_path / "in.wav", channels, 16000, subtype="FLOAT")
    assert convert(tmp_path / "in.wav", tmp_path / "out.flac").channel is None
    assert np.abs(int16(tmp_path / "out.flac") - 32768 * channels.mean(1)).max() <= 1


def test_intact_mp3_files_are_read_without_a_message_of_the_decoder(sound, tmp_path, capfd):
    for start in range(8):  # a seek to the end gives messages for most of them
        wave = (
            np.tile(sound, 3)[start * 1000 :]
            + np.random.default_rng(start).normal(0, 0.2, 3 * len(sound))[start * 1000 :]
        )
        soundfile.write(tmp_path / "x.mp3", np.clip(wave, -1, 1), 16000, format="MP3")
        assert read_header(tmp_path / "x.mp3").samples == len(wave)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_a_copy_does_not_depend_on_how_it_is_divided(rate, sound, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "in.wav", sound * 6, rate, subtype="FLOAT")
    whole = convert(tmp_path / "in.wav", tmp_path / "whole.flac")
    monkeypatch.setattr(conversion, "SECONDS", 1)
    monkeypatch.setattr(audio, "BLOCK", 777)
    assert convert(tmp_path / "in.wav", tmp_path / "parts.flac") == whole
    assert np.array_equal(int16(tmp_path / "parts.flac"), int16(tmp_path / "whole.flac"))


def test_a_copy_that_cannot_be_made(sound, tmp_path):
    soundfile.write(tmp_path / "in.wav", np.append(sound, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(OtherAudio, match="NaN or infinite"):
        convert(tmp_path / "in.wav", tmp_path / "out.flac")
    soundfile.write(tmp_path / "in.wav", sound, 16000)
    with pytest.raises(UserError, match="/proc/nowhere/out.flac: cannot be written .No such file or directory."):
        convert(tmp_path / "in.wav", Path("/proc/nowhere/out.flac"))


def test_a_copy_on_a_full_disk_is_one_line(sound, tmp_path):
    soundfile.write(tmp_path / "in.wav", np.tile(sound, 5), 16000)
    (tmp_path / "out.flac").symlink_to("/dev/full")
    with pytest.raises(UserError, match="out.flac: cannot be written .No space left on device.; free some space"):
        convert(tmp_path / "in.wav", tmp_path / "out.flac")
