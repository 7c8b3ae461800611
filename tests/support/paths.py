"""Where things are in a checkout."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PLUGIN = REPOSITORY / "dinosr_plugin"
EXAMPLES = REPOSITORY / "examples"
CONFIGS = PLUGIN / "config"
TESTS = REPOSITORY / "tests"
GOLDEN = TESTS / "golden"
BENCHMARKS = TESTS / "benchmarks"
