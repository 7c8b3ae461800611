"""Praat in a process of its own: what it does, what it refuses, how it is stopped and replaced, how it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dinosr_plugin.data.perturbation import praat
from dinosr_plugin.data.perturbation.praat import PraatFailed, fix_voice, measure_f0, shift_voice, track_f0
from dinosr_plugin.errors import UserError
from support.paths import REPOSITORY
from support.voices import RATE, spectrum, voice

pytest.importorskip("parselmouth")

WIDE = (75.0, 500.0)
REFUSED = {
    "silence": (np.zeros(RATE, np.float32), "no voiced frame"),
    "noise": (np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32), "no voiced frame"),
    "0.03 s": (voice(200.0, samples=480), "minimum pitch"),
    "one sample": (np.ones(1, np.float32), "minimum pitch"),
}


def glide(f0: float) -> np.ndarray:
    """2 s of a voice whose F0 moves by 10 %. In a constant one, PSOLA repeats periods in a regular pattern, which has
    an F0 of its own."""
    return voice(f0 * (1 + 0.1 * np.sin(np.arange(2 * RATE) / 5000)), samples=2 * RATE)


# ---- what it does ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f0", [90.0, 200.0, 350.0])
def test_f0_is_measured(f0):
    measured = measure_f0(voice(f0), WIDE)
    assert len(measured) > 50 and np.median(measured) == pytest.approx(f0, rel=0.01)


def test_f0_is_tracked_over_time():
    """Half a second of silence, then a voice that rises evenly."""
    wave = np.concatenate([np.zeros(RATE // 2, np.float32), voice(150 + 50 * np.arange(RATE) / RATE)])
    times, hertz = track_f0(wave, WIDE)
    assert np.allclose(np.diff(times), 0.8 / 75) and 0 < times[0] < 0.03 and 1.47 < times[-1] < 1.5
    assert not hertz[times < 0.47].any()
    inside = (times > 0.55) & (times < 1.45)
    np.testing.assert_allclose(hertz[inside], 150 + 50 * (times[inside] - 0.5), rtol=0.01)
    np.testing.assert_array_equal(hertz[hertz > 0].astype(np.float32), measure_f0(wave, WIDE))


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.5, 1.8])
def test_the_median_of_f0_is_multiplied_by_the_ratio(ratio):
    before = np.median(measure_f0(glide(180.0), WIDE))
    shifted = shift_voice(glide(180.0), WIDE, 1.0, ratio, 1.0)
    assert np.median(measure_f0(shifted, (0.7 * 180 * ratio, 500.0))) == pytest.approx(before * ratio, rel=0.03)


@pytest.mark.parametrize("median", [100.0, 300.0])
def test_the_median_of_f0_is_set(median):
    fixed = fix_voice(glide(150.0), WIDE, 1.0, median, 1.0)
    assert np.median(measure_f0(fixed, (0.7 * median, 500.0))) == pytest.approx(median, rel=0.03)


def test_a_median_of_0_hz_keeps_that_of_the_sound():
    assert np.median(measure_f0(fix_voice(voice(150.0), WIDE, 1.2, 0.0, 1.0), WIDE)) == pytest.approx(150, rel=0.02)


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_the_range_of_f0_is_multiplied_by_the_factor(factor):
    wave = glide(200.0)
    changed = shift_voice(wave, WIDE, 1.0, 1.0, factor)
    before, after = (measure_f0(one, (140.0, 290.0)) for one in (wave, changed))
    assert after.std() == pytest.approx(factor * before.std(), rel=0.1)


@pytest.mark.parametrize("ratio", [1 / 1.4, 0.8, 1.2, 1.4])
def test_formants_are_multiplied_by_the_ratio_and_f0_is_not(ratio):
    """One formant at 1200 Hz; the harmonics are 80 Hz apart."""
    shifted = shift_voice(voice(80.0, [1200.0]), WIDE, ratio, 1.0, 1.0)
    assert spectrum(shifted)[200:].argmax() + 200 == pytest.approx(1200 * ratio, abs=80)
    assert np.median(measure_f0(shifted, WIDE)) == pytest.approx(80, rel=0.02)


def test_the_seed_determines_how_voiceless_sound_is_repeated():
    """Praat's PSOLA draws random numbers; a seed of 0 is a seed like the others."""
    rng = np.random.default_rng(0)
    wave = np.concatenate([voice(120.0), rng.normal(0, 0.05, RATE).astype(np.float32), voice(140.0)])
    for seed in (0, 7):
        once, again = (shift_voice(wave, WIDE, 1.2, 1.1, 1.0, seed) for _ in range(2))
        other = shift_voice(wave, WIDE, 1.2, 1.1, 1.0, seed + 1)
        assert np.array_equal(once, again) and not np.array_equal(once, other)
        praat.close()
        assert np.array_equal(once, shift_voice(wave, WIDE, 1.2, 1.1, 1.0, seed))  # by another process


def test_threads_share_the_process():
    waves = [voice(f0) for f0 in (100.0, 150.0, 200.0)]
    expected, found = [shift_voice(wave, WIDE, 1.2, 1.0, 1.0) for wave in waves], [None] * 3

    def work(row: int) -> None:
        found[row] = shift_voice(waves[row], WIDE, 1.2, 1.0, 1.0)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(one, other) for one, other in zip(expected, found))


# ---- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REFUSED)
def test_sounds_without_a_voice_are_refused_and_the_process_continues(kind):
    measure_f0(voice(200.0), WIDE)
    process = praat._process
    wave, reason = REFUSED[kind]
    with pytest.raises(PraatFailed, match=reason) as refused:
        shift_voice(wave, WIDE, 1.2, 1.5, 1.2)
    assert "\n" not in str(refused.value)
    assert len(measure_f0(voice(200.0), WIDE)) > 50 and praat._process is process


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, worker_that):
    monkeypatch.setattr(praat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'parselmouth is missing.*pip install "dinosr-plugin\[perturb\]"'):
        praat.require_parselmouth()
    worker_that("pass\nsys.modules['parselmouth'] = None")  # which makes its import fail
    with pytest.raises(UserError, match=r"parselmouth cannot be imported .*pip install"):
        measure_f0(voice(200.0), WIDE)


# ---- how it is stopped and replaced ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["sum(iter(int, 1))", "while True: pass"])  # the first holds the interpreter's lock
def test_an_endless_loop_ends_after_its_processor_time(code, monkeypatch, worker_that):
    with monkeypatch.context() as patched:
        patched.setattr(praat, "CPU_SECONDS", 0.3)
        patched.setattr(praat, "CPU_SHARE", 0.0)
        worker_that(code)
        with pytest.raises(PraatFailed, match=r"more than 0\.3 s of processor time"):
            measure_f0(voice(200.0), WIDE)
        assert praat._process is None
    monkeypatch.undo()
    assert np.median(measure_f0(voice(200.0), WIDE)) == pytest.approx(200, rel=0.01)


def test_waiting_takes_no_processor_time(monkeypatch, worker_that):
    """A machine that is busy with other things does not change what is answered."""
    monkeypatch.setattr(praat, "CPU_SECONDS", 0.3)
    worker_that("time.sleep(1)\n    return wave[:3]")
    assert len(measure_f0(voice(200.0), WIDE)) == 3


def test_a_process_that_does_not_answer_is_killed(monkeypatch, worker_that):
    worker_that("time.sleep(60)")
    monkeypatch.setattr(praat, "WALL_SECONDS", 0.5)
    monkeypatch.setattr(praat, "WALL_FACTOR", 0.0)
    began = time.monotonic()
    with pytest.raises(PraatFailed, match="did not answer in time"):
        measure_f0(voice(200.0), WIDE)
    assert praat._process is None and time.monotonic() - began < 20


def test_a_stopped_process_does_not_hold_up_a_long_request(monkeypatch):
    """Its pipe is full: writing must not wait for ever."""
    measure_f0(voice(200.0), WIDE)
    monkeypatch.setattr(praat, "WALL_SECONDS", 0.5)
    monkeypatch.setattr(praat, "WALL_FACTOR", 0.0)
    os.kill(praat._process.process.pid, signal.SIGSTOP)
    with pytest.raises(PraatFailed, match="did not answer in time"):
        measure_f0(voice(200.0, samples=10 * RATE), WIDE)


def test_a_killed_process_is_replaced():
    wave = voice(200.0)
    expected = shift_voice(wave, WIDE, 1.2, 1.1, 1.0)
    killed = praat._process.process
    os.kill(killed.pid, signal.SIGKILL)
    assert np.array_equal(shift_voice(wave, WIDE, 1.2, 1.1, 1.0), expected)
    assert praat._process.process.pid != killed.pid and killed.returncode == -signal.SIGKILL


def test_a_process_that_always_dies_is_given_up(worker_that):
    worker_that("os._exit(3)")
    with pytest.raises(PraatFailed, match="ended with status 3"):
        measure_f0(voice(200.0), WIDE)


# ---- how it ends -----------------------------------------------------------------------------------------------------


PARENT = """
import os, sys, time
from dinosr_plugin.data.perturbation import praat
from support.voices import voice
praat.measure_f0(voice(200.0), (75, 500))
print(praat._process.process.pid, flush=True)
"""
HOLD_PIPE = """
pipe = os.dup(praat._process.requests)
if os.fork() == 0:
    time.sleep(20)
time.sleep(60)
"""
ENDINGS = {  # how the parent goes on -> whether it is killed
    "returns": ("", False),
    "is killed": ("time.sleep(60)", True),
    "is killed, and a fork holds the pipe": (HOLD_PIPE, True),
    "ends without cleaning up, as forked workers do": ("os._exit(0)", False),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_process_ends_when_its_parent(ending):
    code, killed = ENDINGS[ending]
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT + code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    child = int(parent.stdout.readline())
    try:
        if killed:
            assert is_running(child)
            time.sleep(0.2)  # until it has forked
            parent.kill()
        parent.wait(20)
        end = time.monotonic() + 10
        while is_running(child):
            assert time.monotonic() < end, "the process is still running"
            time.sleep(0.05)
    finally:
        if ending.endswith("pipe"):
            os.killpg(parent.pid, signal.SIGKILL)  # the fork
        parent.stdout.close()


def is_running(pid: int) -> bool:
    """Not ended, and not a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_fork_starts_a_process_of_its_own():
    """As the workers of a loader do after the F0 of speakers was measured."""
    wave = voice(200.0)
    expected = shift_voice(wave, WIDE, 1.2, 1.1, 1.0)
    ours = praat._process.process.pid
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            same = np.array_equal(shift_voice(wave, WIDE, 1.2, 1.1, 1.0), expected)
            os.write(write, f"{same} {praat._process.process.pid}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    same, theirs = os.read(read, 100).decode().split()
    os.close(read)
    os.close(write)
    assert same == "True" and int(theirs) != ours
    assert np.array_equal(shift_voice(wave, WIDE, 1.2, 1.1, 1.0), expected) and praat._process.process.pid == ours


def test_only_numpy_and_praat_are_imported():
    code = "from dinosr_plugin.data.perturbation import praat_worker; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(REPOSITORY)}
    )
    modules = {name.split(".")[0] for name in done.stdout.split()}
    assert "numpy" in modules and not {"torch", "fairseq", "scipy", "soundfile", "parselmouth"} & modules
