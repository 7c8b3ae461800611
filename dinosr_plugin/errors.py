"""The one exception whose message is written for the user, and helpers for such messages."""

import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: terminals obey them
    "\u2028\u2029"  # line and paragraph separator
    "\u202a-\u202e\u2066-\u2069"  # change the direction of the text that follows
    "\ud800-\udfff]"  # bytes of a file name that is not UTF-8
)


class UserError(ValueError):
    """An error that the user can fix: the message is one line that names the file or field and the remedy.

    ``compat.messages`` makes Hydra and the other command-line programs print it without a traceback. The exit status is
    1 in both cases. Names in the message may come from anywhere: control characters are escaped.

    Args:
        message: one line.
        details: further lines, for an error that consists of many.
    """

    def __init__(self, message: str = "", details: Sequence[str] = ()):
        super().__init__(message, tuple(details))

    def __str__(self) -> str:
        message, details = self.args
        return "\n".join(map(printable, [message, *details]))


def printable(text: str) -> str:
    """The text on one line, with control characters as escapes: ``a\\nb`` for two lines."""
    return CONTROL.sub(lambda match: ascii(match[0])[1:-1], str(text))


def escaped(text: str) -> str:
    """The text with control characters as escapes, except for line feeds and tabs."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


class PrintableStream:
    """A text stream whose terminal no name from outside controls: control characters are written as escapes.

    Except for line feeds and tabs, and for a carriage return at the beginning, with which progress bars are redrawn.
    Characters that the stream cannot encode, where it is not UTF-8, are escapes too.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        begin = "\r" if text.startswith("\r") else ""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        shown = escaped(text[len(begin) :]).encode(encoding, "backslashreplace").decode(encoding)
        self.stream.write(begin + shown)
        return len(text)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def setting(name: str, value: Any = None) -> str:
    """How users of the running program write a setting.

    ``dataset.max_tokens=5`` for ``fairseq-hydra-train`` and in Python. The other programs of fairseq, such as
    ``fairseq-generate``, take this plug-in and all settings as options: ``--max-tokens 5``.
    """
    if not any(argument.split("=")[0] == "--user-dir" for argument in sys.argv[1:]):
        return name if value is None else f"{name}={value}"
    option = "--" + name.rpartition(".")[2].replace("_", "-")
    return option if value is None else f"{option} {value}"


def first_few(items: Sequence, n: int = 3) -> str:
    """The first ``n`` items for a message: ``a, b, c``, or ``a, b, c, ...`` if there are more."""
    return ", ".join(map(str, items[:n])) + (", ..." if len(items) > n else "")
