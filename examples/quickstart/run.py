"""The stages of the quickstart; started by run.sh, which sets up the environment.

Each stage writes its result to the output folder and is skipped if the result exists: a killed run resumes.

corpus -> manifests -> plan -> pre-training -> fine-tuning (pre-trained, scratch) -> decoding -> measures -> summary
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))  # import the package of this checkout, not an installed one

from dinosr_plugin.data.manifest import read_manifest  # noqa: E402
from dinosr_plugin.data.synth.corpus import synthesize  # noqa: E402
from dinosr_plugin.decoding import score_generate_output  # noqa: E402
from dinosr_plugin.errors import UserError  # noqa: E402
from dinosr_plugin.evaluation.history import measure_checkpoints, rows_table  # noqa: E402
from dinosr_plugin.evaluation.phones import PhoneAlignment  # noqa: E402
from dinosr_plugin.evaluation.plots import plot_summary  # noqa: E402
from dinosr_plugin.evaluation.speech import Speech  # noqa: E402
from dinosr_plugin.evaluation.table import format_table  # noqa: E402
from dinosr_plugin.evaluation.training_log import curve, loss_curve, read_training_log  # noqa: E402
from dinosr_plugin.files import claim_folder, write_files  # noqa: E402
from examples.quickstart.programs import Programs, Stopped  # noqa: E402

CONFIGS = REPOSITORY / "dinosr_plugin" / "config"
SYNTH_SPEAKERS, SYNTH_SEED = 16, 1
FIXED_MINUTES = 2.5  # corpus, decoding, measures and start-up of the programs, on 2 cores
PRETRAIN_SHARE = 0.5  # of the minutes for training; the two fine-tunings share the rest equally
CAUTION = 0.85  # plan training for this share of its minutes, because the measured speed is momentary


def main() -> int:
    options = parse()
    programs = Programs(REPOSITORY)
    programs.listen()
    try:
        quickstart = Quickstart(options, programs)
        with claim_folder(quickstart.out):
            quickstart.run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print("stopped; the same command resumes from here", file=sys.stderr)
        return 128 + stopped.number
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.sh", description="DinoSR from audio to WER, on synthetic speech or on --audio."
    )
    parser.add_argument(
        "--audio",
        type=Path,
        metavar="DIR",
        help="corpus in LibriSpeech layout with parts named train* and dev*, and optionally their alignments "
        "<part>.phones.tsv (default: synthetic speech)",
    )
    parser.add_argument(
        "--minutes-budget",
        type=float,
        default=14.0,
        metavar="N",
        help="minutes for everything after the set-up of the environment (default: %(default)s)",
    )
    parser.add_argument(
        "--synth-minutes",
        type=float,
        default=20.0,
        metavar="M",
        help="minutes of synthetic speech, without --audio (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="output folder (default: runs/quickstart, or runs/<name of --audio>)",
    )
    options = parser.parse_args()
    if options.minutes_budget <= FIXED_MINUTES:
        parser.error(f"--minutes-budget {options.minutes_budget:g}: must be greater than {FIXED_MINUTES}")
    return options


class Quickstart:
    """One output folder and the stages that fill it."""

    def __init__(self, options: argparse.Namespace, programs: Programs):
        self.programs = programs
        name = options.audio.resolve().name if options.audio else "quickstart"
        self.out = (options.out or REPOSITORY / "runs" / name).resolve()
        self.audio = options.audio.resolve() if options.audio else None
        self.budget = options.minutes_budget
        self.synth_minutes = options.synth_minutes
        self.bin = Path(sys.executable).parent
        self.manifests = self.out / "manifest"

    def run(self) -> None:
        started = time.time() - self.minutes_spent() * 60
        self.keep_time(started)
        self.corpus = self.make_corpus()
        self.make_manifests()
        self.plan = self.make_plan()
        self.keep_time(started)
        self.pretrain()
        self.keep_time(started)
        for name in ("pretrained", "scratch"):
            self.finetune(name)
            self.keep_time(started)
            self.decode(name)
        quality = self.measure()
        self.keep_time(started)
        self.summarise(quality, self.minutes_spent())

    # ---- time: minutes over all starts of this run -------------------------------------------------------------------

    def minutes_spent(self) -> float:
        path = self.out / "minutes.json"
        return json.loads(path.read_text())["minutes"] if path.exists() else setup_minutes()

    def keep_time(self, started: float) -> None:
        write_json(self.out / "minutes.json", {"minutes": (time.time() - started) / 60})

    # ---- stages ------------------------------------------------------------------------------------------------------

    def make_corpus(self) -> Path:
        if self.audio:
            say(f"corpus: {self.audio}")
            return self.audio
        say(f"corpus: {self.synth_minutes:g} minutes of synthetic speech by {SYNTH_SPEAKERS} speakers")
        synthesize(self.out / "corpus", self.synth_minutes, SYNTH_SPEAKERS, SYNTH_SEED)
        return self.out / "corpus"

    def make_manifests(self) -> None:
        if not (self.manifests / "dict.ltr.txt").exists():  # written last
            self.call(
                "manifests", [self.bin / "dinosr", "manifest", "librispeech", self.corpus, "--out", self.manifests]
            )
        parts = sorted(path.stem for path in self.manifests.glob("*.tsv"))
        self.train, self.dev = (self.part(parts, start) for start in ("train", "dev"))
        for part in (self.train, self.dev):
            split = read_manifest(self.manifests / f"{part}.tsv")
            minutes = sum(u.samples for u in split.utterances) / 16000 / 60
            say(f"  {part}: {len(split.utterances)} utterances, {minutes:.1f} minutes")

    def part(self, parts: list[str], start: str) -> str:
        matching = [part for part in parts if part.startswith(start)]
        if not matching:
            raise UserError(
                f"{self.corpus}: no part whose name starts with '{start}' ({', '.join(parts)} found); "
                "rename or link a folder"
            )
        if len(matching) > 1:
            say(f"  using the first of the parts {', '.join(matching)}")
        return matching[0]

    def make_plan(self) -> dict[str, int]:
        """Numbers of updates that fit the budget, from the measured speed of a few updates."""
        path = self.out / "plan.json"
        if not path.exists():
            say("plan: measuring this machine's speed")
            seconds = update_seconds(CONFIGS / "pretraining" / "dinosr_tiny.yaml")
            training = (self.budget - FIXED_MINUTES) * 60 * CAUTION
            finetune_seconds = seconds * FINETUNE_COST
            plan = {
                "pretrain": round_down(training * PRETRAIN_SHARE / seconds),
                "finetune": round_down(training * (1 - PRETRAIN_SHARE) / 2 / finetune_seconds),
                "seconds_per_pretraining_update": round(seconds, 3),
            }
            write_json(path, plan)
        plan = json.loads(path.read_text())
        say(
            f"plan: {plan['pretrain']} updates of pre-training, 2 x {plan['finetune']} of fine-tuning, "
            f"in {self.budget:g} minutes"
        )
        return plan

    def pretrain(self) -> None:
        updates, folder = self.plan["pretrain"], self.out / "pretrain"
        overrides = [
            f"task.data={self.manifests}",
            f"dataset.train_subset={self.train}",
            f"checkpoint.save_interval_updates={max(updates // 5, 1)}",
        ]
        self.fairseq_train("pre-training", "pretraining", "dinosr_tiny", folder, updates, overrides)

    def finetune(self, name: str) -> None:
        updates, folder = self.plan["finetune"], self.out / f"finetune_{name}"
        overrides = [
            f"task.data={self.manifests}",
            f"dataset.train_subset={self.train}",
            f"dataset.valid_subset={self.dev}",
            f"model.w2v_path={self.out / 'pretrain' / 'checkpoint_last.pt'}",
            f"dataset.validate_interval_updates={max(updates // 5, 1)}",
            f"checkpoint.save_interval_updates={max(updates // 5, 1)}",
        ]
        if name == "scratch":
            overrides.append("model.no_pretrained_weights=true")
        self.fairseq_train(f"fine-tuning, {name}", "finetuning", "tiny", folder, updates, overrides)

    def fairseq_train(
        self, title: str, kind: str, config: str, folder: Path, updates: int, overrides: list[str]
    ) -> None:
        """Run fairseq-hydra-train to its end; it resumes from ``checkpoint_last.pt`` automatically."""
        if (folder / "minutes.json").exists():
            say(f"{title}: already done")
            return
        folder.mkdir(parents=True, exist_ok=True)
        say(f"{title}: {updates} updates (log: {folder / 'training.log'})")
        command = [
            self.bin / "fairseq-hydra-train",
            *("--config-dir", CONFIGS / kind, "--config-name", config),
            f"common.user_dir={REPOSITORY / 'dinosr_plugin'}",
            f"checkpoint.save_dir={folder}",
            f"optimization.max_update={updates}",
            f"common.log_interval={max(min(updates // 10, 50), 1)}",
            *overrides,
        ]
        started = time.time()
        self.watch(title, command, folder, updates)
        write_json(folder / "minutes.json", {"minutes": (time.time() - started) / 60})

    def decode(self, name: str) -> None:
        folder = self.out / f"finetune_{name}"
        if (folder / "score.json").exists():
            return
        command = [
            *(self.bin / "fairseq-generate", self.manifests, "--task", "dinosr_finetuning"),
            *(
                "--user-dir",
                REPOSITORY / "dinosr_plugin",
                "--path",
                folder / "checkpoint_last.pt",
                "--gen-subset",
                self.dev,
            ),
            *("--scoring", "dinosr_wer", "--post-process", "letter", "--results-path", folder, "--cpu"),
        ]
        self.call(f"decoding, {name}", command)
        write_json(folder / "score.json", score_generate_output(folder / f"generate-{self.dev}.txt"))

    def measure(self) -> dict | None:
        """PNMI and other measures of the checkpoint; None for a corpus without a phone alignment."""
        alignment = self.corpus / f"{self.dev}.phones.tsv"
        if not alignment.exists():
            say(f"measures: skipped, because {alignment} does not exist")
            return None
        say("measures: codes against phones")
        phones = PhoneAlignment.read(alignment)
        checkpoint = self.out / "pretrain" / "checkpoint_last.pt"
        speech, _ = Speech.read(self.manifests / f"{self.dev}.tsv", phones)
        figures = measure_checkpoints([checkpoint], speech, self.manifests / f"{self.train}.tsv", self.out / "measures")
        return {**figures, "phones": phones.names}

    # ---- summary -----------------------------------------------------------------------------------------------------

    def summarise(self, quality: dict | None, minutes: float) -> None:
        losses = loss_curve(read_training_log(self.out / "pretrain" / "training.log"))
        scores = {
            name: json.loads((self.out / f"finetune_{name}" / "score.json").read_text())
            for name in ("pretrained", "scratch")
        }
        result = {
            "pretrain": {
                "loss_first": losses[0][1],
                "loss_last": losses[-1][1],
                "updates": self.plan["pretrain"],
                "minutes": json.loads((self.out / "pretrain" / "minutes.json").read_text())["minutes"],
            },
            "codebooks": quality["history"][-1]["teacher"] if quality else [],
            "baselines": {key: quality["baselines"][name] for key, name in BASELINES.items()} if quality else {},
            "wer": {name: score["wer"] for name, score in scores.items()},
            "cer": {name: score["cer"] for name, score in scores.items()},
            "wer_interval": {name: score["wer_interval"] for name, score in scores.items()},
            "minutes_total": round(minutes, 2),
        }
        write_json(self.out / "result.json", result)
        self.draw(result, quality, losses)
        print(summary_text(result))
        print(f"\n{self.out / 'result.json'}\n{self.out / 'summary.png'}")

    def draw(self, result: dict, quality: dict | None, losses: list) -> None:
        labels = {"pretrained": "pre-trained", "scratch": "from scratch"}
        curves = {
            label: [
                (u, w)
                for u, w in curve(read_training_log(self.out / f"finetune_{name}" / "training.log", self.dev), "wer")
            ]
            for name, label in labels.items()
        }
        plot_summary(
            self.out / "summary.png",
            losses,
            result["codebooks"],
            quality["baselines"] if quality else {},
            quality["counts"] if quality else None,
            quality["phones"] if quality else (),
            curves,
            {label: result["wer"][name] for name, label in labels.items()},
        )

    # ---- programs ----------------------------------------------------------------------------------------------------

    def call(self, title: str, command: list) -> None:
        """Run a program to its end; its output goes to a log, which the error message names."""
        say(title)
        log = self.out / f"{re.sub('[^a-z]+', '_', title)}.log"
        with open(log, "w") as file:
            status = self.programs.run(command, file.write)
        if status:
            raise UserError(f"{title} failed with status {status}: {last_line(log)} (log: {log})")

    def watch(self, title: str, command: list, folder: Path, updates: int) -> None:
        """Run a training and show its log as a progress bar."""
        log = folder / "output.log"
        with open(log, "w") as file, tqdm(total=updates, desc=title, unit="update", disable=None) as bar:

            def take(line: str) -> None:
                file.write(line)
                show_progress(bar, line)

            status = self.programs.run(command, take)
        if status:
            raise UserError(f"{title} failed with status {status}: {last_line(log)} (log: {log})")


BASELINES = {"mfcc_kmeans": "MFCC k-means", "untrained": "untrained model"}
FINETUNE_COST = 1.0  # time of a fine-tuning update relative to that of a pre-training update


def setup_minutes() -> float:
    """Minutes since run.sh started."""
    return (time.time() - float(os.environ.get("SETUP_STARTED", time.time()))) / 60


def update_seconds(config: Path, warm_up: int = 2, timed: int = 6) -> float:
    """Median seconds of a pre-training update with this config on random audio."""
    import statistics

    import torch
    from omegaconf import OmegaConf

    from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig

    settings = OmegaConf.load(config)
    fields = {name: value for name, value in settings.model.items() if name != "_name"}
    model = DinoSR(DinoSRConfig(**fields)).train()
    optimizer = torch.optim.Adam(model.parameters())
    width = settings.task.max_sample_size
    times = []
    for update in range(warm_up + timed):
        started = time.time()
        output = model(torch.randn(settings.dataset.max_tokens // width, width))
        (output.losses["dinosr"] / output.sample_size).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.end_update(update + 1)
        times.append(time.time() - started)
    return statistics.median(times[warm_up:])


def round_down(updates: float) -> int:
    """Round down to two leading digits, at least 10: 1234 -> 1200."""
    updates = max(int(updates), 10)
    digit = 10 ** max(len(str(updates)) - 2, 0)
    return updates // digit * digit


def show_progress(bar: tqdm, line: str) -> None:
    found = re.search(r'"(?:\w+_)?loss": "([\d.]+)".*"(?:\w+_)?num_updates": "(\d+)"', line)
    if found and int(found.group(2)) > bar.n:
        bar.set_postfix_str(f"loss {found.group(1)}")
        bar.update(int(found.group(2)) - bar.n)


def last_line(log: Path) -> str:
    """The last line that a failed program printed: its one-line error message, if it has one."""
    lines = [
        line.strip()
        for line in log.read_text(errors="replace").splitlines()
        if line.strip() and "HYDRA_FULL_ERROR" not in line
    ]
    return lines[-1] if lines else "no output"


def summary_text(result: dict) -> str:
    pretrain = result["pretrain"]
    parts = [
        "",
        f"pre-training: loss {pretrain['loss_first']:.2f} -> {pretrain['loss_last']:.2f} nats in {pretrain['updates']} "
        f"updates, {pretrain['minutes']:.1f} minutes",
    ]
    if result["codebooks"]:
        rows = [{"name": f"codebook {k}", **row} for k, row in enumerate(result["codebooks"])]
        rows += [{**row, "name": BASELINES[name]} for name, row in result["baselines"].items()]
        parts += ["", rows_table(rows)]
    rows = [
        {
            "name": name,
            "wer": wer,
            "interval": "{:.1f} to {:.1f}".format(*result["wer_interval"][name]),
            "cer": result["cer"][name],
        }
        for name, wer in result["wer"].items()
    ]
    columns = [
        ("name", "recogniser", ""),
        ("wer", "WER %", ".1f"),
        ("interval", "95 % interval", ""),
        ("cer", "CER %", ".1f"),
    ]
    parts += ["", format_table(rows, columns)]
    return "\n".join([*parts, "", f"{result['minutes_total']:.1f} minutes in total"])


def say(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


def write_json(path: Path, value) -> None:
    write_files(path.parent, {path.name: [json.dumps(value, indent=1)]})


if __name__ == "__main__":
    sys.exit(main())
