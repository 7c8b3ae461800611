"""What a training shows and writes: a bar on a terminal, and everything it logs in ``save_dir/training.log``."""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fairseq.logging import progress_bar
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..compat.wrapping import wrap_once
from ..files import unwritable
from . import ending

NAME = "training.log"
FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"  # Hydra's
SHOWN = {"num_updates": "update", "loss": "loss", "wer": "WER", "lr": "lr"}
"""What the bar shows of the figures that fairseq logs, which are too many for a line."""

_file: logging.Handler | None = None  # of the training of this process


def open_log(folder: Path) -> None:
    """From now on append whatever is logged to the log in this folder, until the training ends.

    Raises UserError if the file cannot be written.
    """
    global _file
    close_log()
    path = folder / NAME
    try:
        _file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise unwritable(str(path), error) from error
    _file.setFormatter(logging.Formatter(FORMAT))
    logging.getLogger().addHandler(_file)
    ending.at_end.callback(close_log)


def close_log() -> None:
    """Undo ``open_log``."""
    global _file
    if _file is not None:
        logging.getLogger().removeHandler(_file)
        _file.close()
        _file = None


# ---- the bar ---------------------------------------------------------------------------------------------------------


class TerminalBar(progress_bar.BaseProgressBar):
    """A bar over an epoch. The log gets the figures as lines of JSON, as with ``common.log_format=json``.

    Args:
        lines: fairseq's progress bar with ``log_format=json``, which iterates over ``iterable``.
        iterable, epoch, prefix: those of ``lines``.
    """

    def __init__(self, lines: progress_bar.BaseProgressBar, iterable: Any, epoch: int | None, prefix: str | None):
        super().__init__(iterable, epoch, prefix)
        self.lines = lines
        self.shown = progress_bar.logger.isEnabledFor(logging.INFO)  # by one of several processes only
        place = {"total": len(iterable), "initial": self.n, "leave": False, "dynamic_ncols": True}
        self.bar = tqdm(lines, self.prefix, disable=not self.shown, **place)

    def __iter__(self) -> Iterator[Any]:
        with logging_redirect_tqdm():  # what is logged meanwhile does not break the bar
            yield from self.bar

    def log(self, stats: dict[str, Any], tag: str | None = None, step: int | None = None) -> None:
        self.bar.set_postfix({name: text for name, text in self.texts(stats).items() if name in SHOWN.values()})
        with only_in_files():
            self.lines.log(stats, tag, step)

    def print(self, stats: dict[str, Any], tag: str | None = None, step: int | None = None) -> None:
        if self.shown:
            with suppress(OSError):  # the terminal is gone
                tqdm.write(f"{self.prefix} | {self._str_pipes(self.texts(stats))}")
        with only_in_files():
            self.lines.print(stats, tag, step)

    def update_config(self, config: dict[str, Any]) -> None:
        self.lines.update_config(config)

    def texts(self, stats: dict[str, Any]) -> dict[str, str]:
        return {SHOWN.get(name, name): text for name, text in self._format_stats(stats).items()}


@contextmanager
def only_in_files() -> Iterator[None]:
    """fairseq's figures go to the log and to ``common.log_file``, not to the terminal."""
    logger = progress_bar.logger
    logger.propagate = False
    if _file is not None:
        logger.addHandler(_file)
    try:
        yield
    finally:
        logger.propagate = True
        if _file is not None:
            logger.removeHandler(_file)


def show_bar_on_terminals():
    """With ``common.log_format=null`` a training shows a bar on a terminal, and prints lines of JSON elsewhere.

    fairseq would show the bar, and write the figures to no file.
    """

    def make(previous):
        def bar(iterator, log_format=None, **kwargs):
            if log_format is not None or "epoch" not in kwargs:  # only a training has epochs
                return previous(iterator, log_format, **kwargs)
            lines = previous(iterator, "json", **kwargs)
            if kwargs.get("default_log_format") != "tqdm" or not sys.stderr.isatty():  # common.no_progress_bar
                return lines
            return TerminalBar(lines, iterator, kwargs.get("epoch"), kwargs.get("prefix"))

        return bar

    wrap_once(progress_bar, "progress_bar", make)
