"""Run test_trl.py with several versions of TRL, each in an environment of its own, and print the table of the README.

python tests/integrations/trl_matrix.py              (20 minutes on two idle cores)
python tests/integrations/trl_matrix.py 0.29.1 newest

Each environment stands on the one that this runs in, and has of its own what differs: torch is not installed again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BESIDE = ["transformers==4.57.6", "requests"]
VERSIONS = {  # TRL -> what it wants beside it
    "0.19.1": BESIDE,
    "0.24.0": BESIDE,
    "0.29.1": BESIDE,
    "1.4.0": BESIDE,
    "1.9.2": BESIDE,
    "1.14.2": BESIDE,
    "newest": [],
}


def run(command: list[str], **environment: str) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})
    return done.returncode, done.stdout + done.stderr


def table_row(version: str, beside: list[str]) -> str:
    """Installs one version, runs the tests, and says what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "bin" / "python")
        trl = "trl" if version == "newest" else f"trl=={version}"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        own = next(Path(folder).glob("lib/python*/site-packages"))
        # after its own packages: what it has itself comes first
        (own / "zz_below.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
        upgrade = ["--upgrade"] if version == "newest" else []
        status, said = run([python, "-m", "pip", "install", "--quiet", *upgrade, "-c", "constraints.txt", trl, *beside])
        if status:
            return f"| {version} | - | not installed: {said.strip().splitlines()[-1]} |"
        names = "import trl, transformers; print(trl.__version__, transformers.__version__)"
        _, found = run([python, "-W", "ignore", "-c", names])
        status, said = run([python, "-m", "pytest", "-q", "tests/integrations/test_trl.py", "-p", "no:cacheprovider"])
        summary = re.findall(r"^.*(?:passed|failed|error|skipped).* in [\d.]+s.*$", said, re.MULTILINE)
        wrong = re.findall(r"^(?:FAILED|ERROR|SKIPPED) .*$", said, re.MULTILINE)
        told = "\n".join(wrong) or ("all passed" if summary else said[-2000:])
        print(f"{version}: {told}", file=sys.stderr, flush=True)
        name, other = (found.split() or ["?"])[-2:] if len(found.split()) > 1 else (version, "?")
        return f"| {name} | {other} | {summary[-1].partition(' in ')[0] if summary else f'status {status}'} |"


def main(versions: list[str]) -> None:
    print("| TRL | transformers | tests |\n|---|---|---|")
    for version in versions or list(VERSIONS):
        print(table_row(version, VERSIONS.get(version, [])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
