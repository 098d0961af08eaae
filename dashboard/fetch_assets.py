"""Fetch what makes the dashboard's pages stand sooner: a smaller plotly.js, and what dash needs of its polyfills.

python dashboard/fetch_assets.py

plotly.js is the build with the charts that have two axes, all that the dashboard draws: 1.4 MB instead of 4.9. It must
be of the version that the installed plotly carries: then figures look the same. Dash puts polyfills for browsers of ten
years ago into every page, which take 0.1 s; its own scripts call one of them, regenerator-runtime.

Both come from npm, which compares them with the registry's checksums. They lie in assets/, unknown to git, and go into
the wheel if they are there; without them Dash serves its own. Both are under the MIT license; the texts of it are
fetched too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from plotly.offline import get_plotlyjs_version

ASSETS = Path(__file__).parent / "lldwatch_dashboard" / "assets"
HINT = "//# allFunctionsCalledOnLoad\n"
"""Chromium then compiles the script in another thread while it arrives, not in pieces while the page waits for them."""


class Script(NamedTuple):
    """A script of a package: what it is called there and here, and what is written above it."""

    package: str
    version: str
    file: str
    name: str
    above: str


def scripts() -> list[Script]:
    """All that is fetched."""
    version = get_plotlyjs_version()
    bundle = f"{HINT}/* plotly.js {version} */\n"
    return [
        Script("plotly.js-cartesian-dist-min", version, "plotly-cartesian.min.js", "plotly-cartesian.min.js", bundle),
        Script("regenerator-runtime", "0.14.1", "runtime.js", "regenerator.js", "/* regenerator-runtime 0.14.1 */\n"),
    ]


def fetch(npm: str, script: Script) -> bool:
    """Put it and its license where they belong; False if it could not be had."""
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", "--pack-destination", folder, f"{script.package}@{script.version}"]
        if subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            print(f"npm could not fetch {script.package} {script.version}", file=sys.stderr)
            return False
        shutil.unpack_archive(next(Path(folder).glob("*.tgz")), folder, filter="data")
        content = Path(folder) / "package"
        license_ = script.name.removesuffix(".js").removesuffix(".min") + ".LICENSE.txt"
        shutil.copyfile(content / "LICENSE", ASSETS / license_)
        text = (content / script.file).read_text(encoding="utf-8")
        (ASSETS / script.name).write_text(script.above + text, encoding="utf-8")
    print(f"{script.package} {script.version} lies in {(ASSETS / script.name).relative_to(ASSETS.parents[2])}")
    return True


def main() -> int:
    """Fetch what is not there in the right version."""
    npm, wanted = shutil.which("npm"), []
    for script in scripts():
        try:
            there = (ASSETS / script.name).read_text(encoding="utf-8").startswith(script.above)
        except OSError:
            there = False
        if there:
            print(f"{script.package} {script.version} is there already")
        else:
            wanted.append(script)
    if wanted and npm is None:
        print("npm is not installed: the dashboard goes on with dash's own, larger scripts", file=sys.stderr)
        return 0
    missed = [script for script in wanted if not fetch(str(npm), script)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
