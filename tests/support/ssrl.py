"""Small trainings of SSRL, of seconds."""

from pathlib import Path

from support.training import train, write_corpus

N, K = 8, 3  # utterances, clusters
FEW = ["task.views=crop0.5+augment/crop0.8+peak", "lr_scheduler.phase_updates=[4,8]", "model.ema_anneal_end_step=12"]
FEW += ["model.start_from=null", "optimization.lr=[0.01,0.01]", "task.fixed_epochs=2", "task.label_queue=3"]
FEW += ["model.margin=0.2", "model.ema_decay=0.99", "model.ema_end_decay=0.999"]


def write_ssrl_corpus(folder: Path) -> Path:
    """``train.tsv``, with two files of each of four speakers, and its first labels ``train.clusters``."""
    write_corpus(folder, lengths=[16000, 12000, 17000, 9000, 16000, 11000, 8000, 20000])
    rows = (folder / "train.tsv").read_text().splitlines()
    for n in range(N):
        (folder / f"s{n // 2}").mkdir(exist_ok=True)
        (folder / f"sounds/train{n}.wav").rename(folder / f"s{n // 2}/{n}.wav")
        rows[1 + n] = rows[1 + n].replace(f"sounds/train{n}", f"s{n // 2}/{n}")
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    (folder / "train.clusters").write_text("".join(f"{row % K}\n" for row in range(N)))
    (folder / "dict.clusters.txt").write_text("".join(f"{label} 1\n" for label in range(K)))
    return folder


def ssrl(data: Path, save_dir: Path, epochs: int, *overrides: str, run=train):
    """Trains for so many epochs of two updates, with a checkpoint after each; returns what ``run`` does."""
    settings = [*FEW, f"optimization.max_epoch={epochs}", "checkpoint.no_epoch_checkpoints=false"]
    return run(data, save_dir, *settings, "checkpoint.save_interval=1", *overrides, config="ssrl_speaker_tiny")


def write_ssrl_run(folder: Path) -> None:
    """The corpus, and a training of four epochs on it: ``run``, the save_dir, and ``train.log``."""
    write_ssrl_corpus(folder)
    ssrl(folder, folder / "run", 4, f"common.log_file={folder}/train.log")
