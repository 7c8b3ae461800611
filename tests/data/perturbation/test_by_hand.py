"""``dinosr perturb``: one file with another voice."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from dinosr_plugin.cli import main
from dinosr_plugin.data.perturbation import by_hand, praat
from dinosr_plugin.data.perturbation.praat import measure_f0
from dinosr_plugin.data.perturbation.resample import shift_all
from dinosr_plugin.data.perturbation.voice import draw
from support.paths import REPOSITORY
from support.voices import RATE, voice

pytest.importorskip("parselmouth")


@pytest.fixture
def sound(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    f0 = 150 * (1 + 0.1 * np.sin(np.arange(2 * RATE) / 5000))
    soundfile.write("in.wav", voice(f0, samples=2 * RATE), RATE)
    return tmp_path / "in.wav"


def perturb(*arguments: str) -> int:
    return main(["perturb", "in.wav", *arguments])


def read(name: str) -> np.ndarray:
    wave, rate = soundfile.read(name, dtype="float32")
    assert rate == RATE and wave.ndim == 1
    return wave


def test_the_values_that_are_given_are_applied_without_an_equaliser(sound, capsys):
    assert perturb("out.flac", "--formant", "1.2", "--pitch", "300", "--range", "1.2") == 0
    changed = read("out.flac")
    assert soundfile.info("out.flac").format == "FLAC" and len(changed) == 2 * RATE
    assert np.median(measure_f0(changed, (200.0, 500.0))) == pytest.approx(300, rel=0.03)
    out = capsys.readouterr().out
    assert "voice (praat): formants x 1.200, median F0 300 Hz, range of F0 x 1.200" in out and "equaliser" not in out


def test_values_that_are_not_given_are_not_changed(sound, capsys):
    assert perturb("out.wav", "--formant", "0.9") == 0
    assert "formants x 0.900, median F0 as before, range of F0 x 1.000" in capsys.readouterr().out
    before, after = (np.median(measure_f0(read(name), (110.0, 220.0))) for name in ("in.wav", "out.wav"))
    assert after == pytest.approx(before, rel=0.02)


def test_a_seed_determines_the_change_and_the_equaliser(sound, capsys):
    for name, *options in (("a.wav", "--seed", "5"), ("b.wav", "--seed", "5"), ("c.wav", "--seed", "6"), ("d.wav",),
                           ("e.wav", "--seed", "0")):  # fmt: skip
        assert perturb(name, *options) == 0
    a, b, c, d, e = (read(name) for name in ("a.wav", "b.wav", "c.wav", "d.wav", "e.wav"))
    assert np.array_equal(a, b) and np.array_equal(d, e) and not np.array_equal(a, c) and not np.array_equal(a, d)
    drawn = draw(np.random.default_rng(5))
    text = f"formants x {drawn.formant:.3f}, median F0 x {drawn.pitch:.3f}, range of F0 x {drawn.spread:.3f}"
    out = capsys.readouterr().out
    assert text in out and "equaliser: 60 Hz" in out and "7600 Hz" in out


def test_the_equaliser_can_be_left_out(sound, capsys):
    assert perturb("a.wav", "--seed", "5") == 0 and perturb("b.wav", "--seed", "5", "--no-equalizer") == 0
    assert "equaliser" not in capsys.readouterr().out.split("b.wav")[1]
    assert not np.array_equal(read("a.wav"), read("b.wav"))


def test_resampling_needs_no_parselmouth(sound, capsys, monkeypatch):
    monkeypatch.setattr(praat, "ask", None)
    assert perturb("out.wav", "--by", "resample", "--formant", "1.2") == 0
    np.testing.assert_allclose(read("out.wav"), shift_all(read("in.wav"), 1.2), atol=1e-4)
    assert "voice (resample): all frequencies x 1.200" in capsys.readouterr().out


def test_a_sound_without_a_voice_is_equalised_and_a_note_says_so(sound, capsys):
    soundfile.write("in.wav", np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    assert perturb("out.wav") == 0
    assert "note: the voice is not changed: no voiced frame" in capsys.readouterr().err
    assert not np.array_equal(read("out.wav"), read("in.wav"))
    assert perturb("out2.wav", "--formant", "1.2") == 1
    assert "error: in.wav: its voice cannot be changed (no voiced frame); give" in capsys.readouterr().err


def test_other_formats_are_converted_to_16_khz_mono(sound):
    soundfile.write("in.wav", np.stack([voice(150.0, samples=44100)] * 2, 1), 44100)
    assert perturb("out", "--formant", "1.1") == 0
    assert soundfile.info("out").format == "WAV" and len(read("out")) == RATE


def test_a_file_that_exists_is_not_overwritten(sound, capsys):
    before = sound.read_bytes()
    assert perturb("in.wav") == 1
    assert capsys.readouterr().err == "error: in.wav: already exists; give another name, or remove it first\n"
    assert sound.read_bytes() == before


def test_an_output_that_another_process_writes_is_refused(sound, capsys):
    script = (
        "import time\nfrom dinosr_plugin.files import claim_new\nwith claim_new('out.wav'):\n    print(flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", f"{script}    time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as other:
        other.stdout.readline()
        assert perturb("out.wav", "--by", "resample") == 1
        other.kill()
    assert capsys.readouterr().err.startswith(f"error: OUT=out.wav: another process (process {other.pid} on ")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--formant", "3"], "--formant 3: must be between 0.5 and 2"),
        (["--pitch", "20"], "--pitch 20: must be between 40 and 1000"),
        (["--range", "6"], "--range 6: must be above 0 and at most 5"),
        (["--seed", "-1"], "--seed -1: must be between 0 and 4294967295"),
        (["--seed", "1", "--range", "1.2"], "--seed 1: draws the change, which --range gives; remove one of them"),
        (["--by", "resample", "--pitch", "200"], "--pitch 200: --by resample moves formants and F0 together; give"),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line(sound, options, message, capsys):
    assert perturb("out.wav", *options) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}") and err.count("\n") == 1 and not (sound.parent / "out.wav").exists()


def test_a_missing_or_long_file_is_refused(sound, capsys, monkeypatch):
    monkeypatch.setattr(by_hand, "MAX_MINUTES", 1 / 60)
    assert perturb("out.wav") == 1
    assert "error: in.wav: longer than 0.0166667 minutes; split it with `dinosr segment`" in capsys.readouterr().err
    sound.unlink()
    assert perturb("out.wav") == 1
    assert capsys.readouterr().err == "error: in.wav: no such file; give a recording\n"


def test_real_speech(librispeech_mini, tmp_path):
    """The median F0 of an utterance becomes the one that is given, and the length stays."""
    path = sorted(librispeech_mini.rglob("*.flac"))[0]
    assert main(["perturb", str(path), str(tmp_path / "out.wav"), "--formant", "0.8", "--pitch", "100"]) == 0
    changed = read(str(tmp_path / "out.wav"))
    assert len(changed) == soundfile.info(path).frames
    assert np.median(measure_f0(changed, (60.0, 300.0))) == pytest.approx(100, rel=0.05)
