"""``python -m dinosr_plugin.cli``: the command where the package is not installed."""

import sys

from . import main

sys.exit(main())
