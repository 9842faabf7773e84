"""``python -m jaxdreamer``."""

import sys

from jaxdreamer.cli import main

sys.exit(main())
