"""examples/interop/s3prl/run.sh: the tables that s3prl's recipe reads, and the command that starts it.

tests/interop/test_s3prl.py runs the recipe itself on such tables.
"""

import csv
from pathlib import Path

import pytest

from support.chains import calls, run_command, write_recording_commands
from support.paths import EXAMPLES

RUN = EXAMPLES / "interop/s3prl/run.sh"


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """Two recordings in each set, one of which has an alignment, and commands that only record their arguments."""
    write_recording_commands(tmp_path)
    for name in ("train", "dev", "more"):
        rows = ["/a folder, with a comma", f"b/{name}1.flac\t16000", f"{name}.2.wav\t16000"]
        (tmp_path / f"data/{name}.tsv").write_text("\n".join(rows) + "\n")
        phones = [
            "utt\tstart\tend\tphone",
            *(f"{name}1\t0.0\t0.1\t{phone}" for phone in ("SIL", "K", "AE", "SIL", "T")),
        ]
        (tmp_path / f"data/{name}.phones.tsv").write_text("\n".join(phones) + "\n")
    (tmp_path / "out/evaluate/valid_best/more").mkdir(parents=True)
    (tmp_path / "out/evaluate/valid_best/more/result.yaml").write_text("per: 0.5\n")
    return tmp_path


def start(sandbox: Path, *words: str, **environment: str) -> tuple[list[str], str]:
    done = run_command([RUN, "data", "out", *words], sandbox, sandbox / "bin", TEST="more", **environment)
    assert done.returncode == 0, done.stderr
    return calls(sandbox), done.stdout


def test_tables_have_the_phones_of_aligned_recordings(sandbox):
    start(sandbox, "fbank")
    for name in ("train", "dev", "more"):
        with (sandbox / f"out/{name}.csv").open(newline="") as table:
            assert list(csv.DictReader(table)) == [
                {
                    "id": f"{name}1",
                    "wav_path": f"/a folder, with a comma/b/{name}1.flac",
                    "transcription": "K AE T",
                }
            ]


def test_the_recipe_is_started_on_the_checkpoint(sandbox):
    (call,), printed = start(sandbox, "dinosr_teacher", "a.pt", STEPS="30", DEVICE="cpu", BATCH="2")
    assert call.startswith("dinosr s3prl main SuperbPR --target_dir out --start 1 --device cpu ")
    for option in (
        "--build_upstream.name dinosr_teacher",
        "--build_upstream.path_or_url a.pt",
        "--train.total_steps 30",
        "--train.eval_step 30",
        "--build_batch_sampler.train.batch_size 2",
        "--prepare_data.train_sets ['train'] --prepare_data.valid_sets ['dev'] --prepare_data.test_sets ['more']",
    ):
        assert f"{option} " in f"{call} ", option
    assert printed == "per: 0.5\n"


def test_superbs_own_settings_are_the_defaults(sandbox):
    (call,), _ = start(sandbox, "fbank")
    assert "--train.total_steps 100000 --train.eval_step 1000 --train.save_step 1000" in call
    assert "batch_size 16" in call and "--device cuda" in call and "path_or_url" not in call
