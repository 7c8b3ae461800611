"""``python -m dinosr_plugin.cli``: the ``dinosr`` command without an installation."""

import sys

from . import main

sys.exit(main())
