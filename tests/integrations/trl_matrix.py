"""Run test_trl.py with several versions of TRL, each in an environment of its own, and print the table of the README.

python tests/integrations/trl_matrix.py              (half an hour on two cores; 1.3 GB on disk while it runs)
python tests/integrations/trl_matrix.py 0.29.1 newest
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRANSFORMERS_4 = "transformers==4.57.6"
VERSIONS = {  # TRL -> what it wants beside it
    "0.19.1": [TRANSFORMERS_4],
    "0.24.0": [TRANSFORMERS_4],
    "0.29.1": [TRANSFORMERS_4],
    "1.4.0": [TRANSFORMERS_4],
    "1.9.2": [TRANSFORMERS_4],
    "1.14.2": [TRANSFORMERS_4],
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
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        tests = ["pytest", "pytest-timeout", "datasets", "accelerate", "requests", "rich", "jinja2", "."]
        for wanted in (["-r", "constraints.txt"], ["-c", "constraints.txt", trl, *beside, *tests]):
            status, said = run([*install, *wanted])
            if status:
                return f"| {version} | - | not installed: {said.strip().splitlines()[-1]} |"
        names = "import trl, transformers; print(trl.__version__, transformers.__version__)"
        _, found = run([python, "-W", "ignore", "-c", names])
        status, said = run([python, "-m", "pytest", "-q", "tests/integrations/test_trl.py", "-p", "no:cacheprovider"])
        summary = re.findall(r"^.*(?:passed|failed|error|skipped).* in [\d.]+s.*$", said, re.MULTILINE)
        wrong = re.findall(r"^(?:FAILED|ERROR|SKIPPED) .*$", said, re.MULTILINE)
        print("\n".join(wrong) or "all passed", file=sys.stderr, flush=True)
        own, other = (found.split() or ["?"])[-2:] if len(found.split()) > 1 else (version, "?")
        return f"| {own} | {other} | {summary[-1].partition(' in ')[0] if summary else f'status {status}'} |"


def main(versions: list[str]) -> None:
    print("| TRL | transformers | tests |\n|---|---|---|")
    for version in versions or list(VERSIONS):
        print(table_row(version, VERSIONS.get(version, [])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
