"""The messages in examples/TROUBLESHOOTING.md are those that the package prints."""

import ast
import re

import pytest

from support.paths import EXAMPLES, PLUGIN

PAGE = (EXAMPLES / "TROUBLESHOOTING.md").read_text(encoding="utf-8")
MESSAGES = [line for block in re.findall(r"```\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
SETTINGS = r"\b(?:common|dataset|checkpoint|optimization|distributed_training)\.\w+"
INSERTED = rf"\.\.\.|{SETTINGS}|1 channel|[;:(),]| but | at the | or "
"""What is computed or inserted: names, settings (``errors.setting``), and where messages are put together."""


@pytest.fixture(scope="module")
def literals() -> str:
    """All parts of strings in the package that are not computed, one to a line."""
    texts = set()
    for path in PLUGIN.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    return "\n".join(sorted(texts))


def test_there_are_messages():
    assert len(MESSAGES) > 20 and len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_the_parts_of_a_message_are_in_the_package(literals, message):
    """Its parts between what is inserted; short ones could be anywhere."""
    parts = [part.strip() for part in re.split(INSERTED, message) if len(part.strip()) > 6]
    assert parts and not [part for part in parts if part not in literals]
