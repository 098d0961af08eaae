"""`python -m lldwatch` is the command `lldwatch`."""

import sys

from lldwatch.cli import main

sys.exit(main())
