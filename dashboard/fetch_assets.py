"""Fetch the smaller bundle of plotly.js for the dashboard: 1.4 MB instead of 4.9, so that the first page stands sooner.

python dashboard/fetch_assets.py

It is the build with the charts that have two axes: all that the dashboard draws. It comes from npm, which compares it
with the registry's checksum, and it must be of the version that the installed plotly carries: then figures look the
same. It lies in assets/, unknown to git, and goes into the wheel if it is there; without it, or after another plotly
was installed, Dash serves plotly's own bundle. plotly.js is under the MIT license; its text is fetched too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from plotly.offline import get_plotlyjs_version

PACKAGE = "plotly.js-cartesian-dist-min"
ASSETS = Path(__file__).parent / "lldwatch_dashboard" / "assets"
BUNDLE, LICENSE = ASSETS / "plotly-cartesian.min.js", ASSETS / "plotly-cartesian.LICENSE.txt"


def main() -> int:
    """Fetch it, unless it is there in the right version."""
    npm, version = shutil.which("npm"), get_plotlyjs_version()
    if BUNDLE.exists() and f"v{version}\n" in BUNDLE.read_text(encoding="utf-8")[:300]:
        print(f"{PACKAGE} {version} is there already")
        return 0
    if npm is None:
        print("npm is not installed: the dashboard goes on with plotly's own, larger bundle", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", "--pack-destination", folder, f"{PACKAGE}@{version}"]
        if subprocess.run(command, cwd=folder, check=False).returncode != 0:
            print(f"npm could not fetch {PACKAGE} {version}", file=sys.stderr)
            return 1
        archive = next(Path(folder).glob("*.tgz"))
        shutil.unpack_archive(archive, folder, filter="data")
        content = Path(folder) / "package"
        shutil.copyfile(content / "LICENSE", LICENSE)
        shutil.copyfile(content / BUNDLE.name, BUNDLE)
    print(f"{PACKAGE} {version} lies in {BUNDLE.relative_to(ASSETS.parents[2])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
