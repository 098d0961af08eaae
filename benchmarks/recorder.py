"""What does recording a step cost the training thread and the disk, beside what else one would log it with?

make bench-peers, or: python benchmarks/recorder.py --steps 300 --repeats 3 --only lldwatch "JSON lines"

Two tables: a step of 256 responses, each with its uid and 15 columns of `Responses`, and a step of 20 scalars. One way
after another, all of them in each repeat, each time in a fresh process with a folder of its own. All get the same
made-up values, in numpy columns of the dtypes that `Responses` has, made before the clock starts.

Timed is the call alone: from the numpy columns (or a dict of floats) until the training thread goes on, whatever is
left to background threads. Between calls the thread multiplies matrices for 5 ms (--pause), with the GIL free, as a
training does, which leaves the caches cold; with --idle it sleeps instead. Quoted are median and 95th percentile of
the steps after a warm-up, and of both the median over the repeats. CPU is that of all threads in a step and, shared
out, in closing, without the matrices; W&B's own service process is left out. Bytes are those of the files after
closing. A slow way makes fewer steps (--seconds, at least 20).

* floor: copies the columns into arrays that are there already. It keeps nothing.
* lldwatch: makes `Observation` and `Responses`, and records them; "record() alone" gets them made, as from a monitor.
* JSON lines: an object for each response, flushed each step. pandas: a Parquet file for each step, by pyarrow.
* W&B (offline): a `wandb.Table` for each step, from rows: from a DataFrame it takes three times as long.
* Trackio: a `trackio.Table` for each step. MLflow: `log_table` into a JSON file for each step, in the local file
  store (appended to one file, it is read and written whole each time, every step slower than the one before).
* TensorBoard (tensorboardX: without torch, the tensorboard package writes scalars alone) and Aim know no rows: they
  keep a histogram of each column, and which response had what is lost.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lldwatch.recorder import Recorder
from lldwatch.schema import Observation, Responses, RunInfo, columns_of

Step = dict[str, Any]
Call = Callable[[int, Step], object]
Way = tuple[Call, Call, Callable[[], object]]  # a step of responses, a step of scalars, the end
OURS, RESPONSES, GROUP, SCALARS, WARM_UP, LEAST = "lldwatch", 256, 8, 20, 20, 20
TABLES = {"responses": f"{RESPONSES} responses a step", "scalars": f"{SCALARS} scalars a step"}
ENVIRONMENT = {  # no network, no telemetry, one thread for the matrices
    **{"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_DISABLE_GIT": "true"},
    **{"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ANALYTICS_ENABLED": "False"},
    **{"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true", "DO_NOT_TRACK": "true"},
    **{"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
}


def made_up_responses(random: np.random.Generator, step: int) -> Step:
    """One update of a GRPO step: shuffled groups of 8, graded rewards, long responses, as uid and 15 columns."""
    reward = random.choice([0.0, 0.1, 1.0], p=[0.3, 0.2, 0.5], size=(RESPONSES // GROUP, GROUP))
    advantage = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, keepdims=True) + 1e-4)
    tokens, first = random.integers(100, 4000, RESPONSES), random.integers(20, 100, RESPONSES)
    surprisal, change = random.gamma(4.0, 0.08, (3, RESPONSES)), random.normal(0.0, 0.02, (2, RESPONSES))
    uid = random.permutation(RESPONSES)
    columns = {
        "uid": step * RESPONSES + uid,
        "group": step * RESPONSES // GROUP + uid // GROUP,
        "update": np.zeros(RESPONSES),
        "reward": reward.ravel()[uid],
        "advantage": advantage.ravel()[uid],
        "correct": reward.ravel()[uid] == 1.0,
        "tokens": tokens,
        "actions": random.integers(1, 6, RESPONSES),
        "old_log_prob": -tokens * surprisal[0],
        "log_prob": -tokens * surprisal[0] + np.sqrt(tokens) * change[0],
        "entropy": surprisal[2],
        "min_log_prob": -random.gamma(9.0, 1.0, RESPONSES),
        "clipped_tokens": random.poisson(0.002 * tokens),
        "first_action_tokens": first,
        "first_action_log_prob": -first * surprisal[1],
        "first_action_change": np.sqrt(first) * change[1],
    }
    dtypes = columns_of("responses")
    return {name: values.astype(dtypes[name].metadata["dtype"]) for name, values in columns.items()}


def made_up_scalars(random: np.random.Generator, step: int) -> Step:
    names = [name for name, column in columns_of("steps").items() if column.metadata["dtype"] == "float32"]
    return dict(zip(names[:SCALARS], random.normal(size=SCALARS).tolist(), strict=True))


def as_rows(columns: Step) -> list[tuple[Any, ...]]:
    return list(zip(*(column.tolist() for column in columns.values()), strict=True))


def floor(folder: Path, data: list[Step]) -> Way:
    kept = {name: np.ones((len(data), *np.shape(value)), np.asarray(value).dtype) for name, value in data[0].items()}

    def copy(step: int, values: Step) -> None:
        for name, value in values.items():
            kept[name][step] = value

    return copy, copy, lambda: None


def lldwatch(folder: Path, data: list[Step]) -> Way:
    recorder = Recorder(folder / "run", RunInfo())
    return (
        lambda step, columns: recorder.record(Observation(step=step), [Responses(**columns)]),
        lambda step, values: recorder.record(Observation(step=step, **values)),
        recorder.close,
    )


def record_alone(folder: Path, data: list[Step]) -> Way:
    recorder, rows = Recorder(folder / "run", RunInfo()), "uid" in data[0]
    observations = [Observation(step=step, **({} if rows else values)) for step, values in enumerate(data)]
    tables = [[Responses(**values)] if rows else [] for values in data]

    def record(step: int, values: Step) -> None:
        recorder.record(observations[step], tables[step])

    return record, record, recorder.close


def json_lines(folder: Path, data: list[Step]) -> Way:
    file = open(folder / "log.jsonl", "w")  # noqa: SIM115 - closed by the caller

    def write(step: int, *rows: Step) -> None:
        for row in rows:
            file.write(json.dumps({"step": step, **row}) + "\n")
        file.flush()

    return (
        lambda step, columns: write(step, *(dict(zip(columns, row, strict=True)) for row in as_rows(columns))),
        write,
        file.close,
    )


def pandas(folder: Path, data: list[Step]) -> Way:
    import pandas

    return (
        lambda step, columns: pandas.DataFrame(columns).to_parquet(folder / f"{step:06d}.parquet"),
        lambda step, values: pandas.DataFrame([values]).to_parquet(folder / f"{step:06d}.parquet"),
        lambda: None,
    )


def wandb(folder: Path, data: list[Step]) -> Way:
    import wandb

    run = wandb.init(project="bench", dir=folder, settings=wandb.Settings(x_disable_stats=True, console="off"))

    def rows(step: int, columns: Step) -> None:
        run.log({"responses": wandb.Table(columns=list(columns), data=as_rows(columns))}, step=step)

    return rows, lambda step, values: run.log(values, step=step), run.finish


def tensorboard(folder: Path, data: list[Step]) -> Way:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder))

    def rows(step: int, columns: Step) -> None:
        for name, column in columns.items():
            writer.add_histogram(name, column, step)

    def scalars(step: int, values: Step) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return rows, scalars, writer.close


def trackio(folder: Path, data: list[Step]) -> Way:
    os.environ["TRACKIO_DIR"] = str(folder)  # read when it is imported
    import pandas
    import trackio

    run = trackio.init(project="bench", embed=False, auto_log_gpu=False, auto_log_cpu=False)
    return (
        lambda step, columns: run.log({"responses": trackio.Table(dataframe=pandas.DataFrame(columns))}, step=step),
        lambda step, values: run.log(values, step=step),
        trackio.finish,
    )


def aim(folder: Path, data: list[Step]) -> Way:
    import aim

    run = aim.Run(repo=str(folder), system_tracking_interval=None, capture_terminal_logs=False)

    def rows(step: int, columns: Step) -> None:
        columns = {**columns, "correct": columns["correct"].view(np.uint8)}  # a histogram of booleans warns each time
        run.track({name: aim.Distribution(column) for name, column in columns.items()}, step=step)

    return rows, lambda step, values: run.track(values, step=step), run.close


def mlflow(folder: Path, data: list[Step]) -> Way:
    import mlflow

    mlflow.set_tracking_uri((folder / "mlruns").as_uri())
    mlflow.start_run()
    return (
        lambda step, columns: mlflow.log_table(columns, f"responses/{step:06d}.json"),
        lambda step, values: mlflow.log_metrics(values, step=step),
        mlflow.end_run,
    )


WAYS: dict[str, tuple[Callable[[Path, list[Step]], Way], str]] = {  # and the package that it needs
    "floor": (floor, "numpy"),
    OURS: (lldwatch, "lldwatch"),
    "record() alone": (record_alone, "lldwatch"),
    "JSON lines": (json_lines, "json"),
    "pandas": (pandas, "pandas"),
    "W&B": (wandb, "wandb"),
    "TensorBoard": (tensorboard, "tensorboardX"),
    "Trackio": (trackio, "trackio"),
    "Aim": (aim, "aim"),
    "MLflow": (mlflow, "mlflow"),
}


def train(milliseconds: float, idle: bool, weights: np.ndarray[Any, Any]) -> float:
    """What a training does between two steps that are recorded; the CPU seconds of it."""
    cpu, until = time.thread_time(), time.perf_counter() + milliseconds / 1000
    if idle:
        time.sleep(milliseconds / 1000)
    while time.perf_counter() < until:
        weights @ weights
    return time.thread_time() - cpu


def in_child(way: str, table: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Microseconds and bytes of a step. The working directory is empty, and deleted afterwards."""
    random, make = np.random.default_rng(0), made_up_responses if table == "responses" else made_up_scalars
    data = [make(random, step) for step in range(WARM_UP + arguments.steps)]
    weights = random.normal(size=(256, 256)).astype(np.float32)
    folder = Path.cwd() / "written"
    folder.mkdir()
    rows, scalars, close = WAYS[way][0](folder, data)
    call, spent = rows if table == "responses" else scalars, []
    for step, values in enumerate(data):
        if step == WARM_UP:
            until, cpu = time.perf_counter() + arguments.seconds, time.process_time()
        training = train(arguments.pause, arguments.idle, weights)
        began = time.perf_counter()
        call(step, values)
        spent.append(1e6 * (time.perf_counter() - began))
        if step >= WARM_UP:
            cpu += training
            if began > until and step >= WARM_UP + LEAST:
                break
    close()
    measured = spent[WARM_UP:]
    return {
        "median_us": statistics.median(measured),
        "p95_us": float(np.percentile(measured, 95)),
        "cpu_us": 1e6 * (time.process_time() - cpu) / len(measured),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / len(spent),
        "steps": len(measured),
    }


def spawned(way: str, table: str, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """One answer of a fresh process whose home, temporary files and results go into one folder; none if it failed."""
    options = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "seconds", "pause")]
    command = [sys.executable, str(Path(__file__).resolve()), "--child", way, table, *options]
    command += ["--idle"] * arguments.idle
    with tempfile.TemporaryDirectory() as folder:
        places = dict.fromkeys(("HOME", "TMPDIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"), folder)
        environment = {**os.environ, **ENVIRONMENT, **places}
        child = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if child.returncode:
        print(f"failed: {way}, {table}:\n{child.stderr[-2000:]}", file=sys.stderr)
        return []
    return [json.loads(child.stdout.splitlines()[-1])]


def compare(table: str, ways: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    answers: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(arguments.repeats):
        for way, each in answers.items():
            each += spawned(way, table, arguments)
    return [
        {"table": table, "way": way, **{name: statistics.median(one[name] for one in each) for name in each[0]}}
        for way, each in answers.items()
        if each
    ]


def markdown(results: list[dict[str, Any]]) -> str:
    """Ratios are to lldwatch's median."""
    table = results[0]["table"]
    per, what = (RESPONSES, "response") if table == "responses" else (1, "step")
    ours = next((each["median_us"] for each in results if each["way"] == OURS), float("nan"))
    lines = [f"| {TABLES[table]} | µs, median | µs, p95 | x {OURS} | bytes per {what} | CPU µs | steps |"]
    lines.append("|---|---|---|---|---|---|---|")
    for each in results:
        lines.append(
            f"| {each['way']} | {each['median_us']:,.1f} | {each['p95_us']:,.1f} | {each['median_us'] / ours:,.1f} "
            f"| {each['bytes'] / per:,.0f} | {each['cpu_us']:,.0f} | {each['steps']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="a way makes no further steps after this long")
    parser.add_argument("--pause", type=float, default=5.0, help="milliseconds of training before each step")
    parser.add_argument("--idle", action="store_true", help="sleep instead of training")
    parser.add_argument("--only", nargs="+", choices=WAYS, metavar="NAME", default=list(WAYS), help=", ".join(WAYS))
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print("\n" + json.dumps(in_child(*arguments.child, arguments)))
        return
    ways = [way for way in arguments.only if importlib.util.find_spec(WAYS[way][1])]
    for way in arguments.only:
        if way not in ways:
            print(f"skipped: {way}: {WAYS[way][1]} is not installed (make bench-peers)", file=sys.stderr)
    results = [each for table in TABLES if (each := compare(table, ways, arguments))]
    print(json.dumps([*chain(*results)], indent=1) if arguments.json else "\n\n".join(map(markdown, results)))
    sys.exit(sum(map(len, results)) < len(TABLES) * len(ways))  # a way that failed was named


if __name__ == "__main__":
    main()
