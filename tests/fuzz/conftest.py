from __future__ import annotations

import sys
from pathlib import Path

# the targets use what the tests of the importers and of the dashboard have
sys.path += [str(Path(__file__).parents[1] / name) for name in ("importers", "dashboard")]
