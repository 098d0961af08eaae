"""Record the samples of foreign logs again: each command writes one tool's, wherever it can with the tool itself.

python sample_logs/foreign/record.py trl --out DIR      with a Python that has the tool; see README.md beside this
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integrations")]

Row = dict[str, Any]


# ---- what every command needs ----


def scrubbed(text: str, *folders: Path) -> str:
    """Without this machine's paths, names and addresses; the same text always comes to the same."""
    places = {str(folder): "." for folder in folders}
    places |= {str(ROOT / ".venv"): "/venv", str(ROOT): "/lldwatch", sys.prefix: "/venv", sys.base_prefix: "/usr"}
    places |= {sysconfig.get_path("purelib"): "/venv/site-packages", str(Path.home()): "/home/user"}
    for place in sorted(places, key=len, reverse=True):
        text = re.sub(re.escape(place) + r"(?=[/\s'\":,;)]|$)", places[place], text)
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "host", text)
    return re.sub(r"\b(?!127\.)\d{2,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b", "127.0.0.1", text)


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        yield Path(folder)


def run(command: list[str], folder: Path, **more: str) -> str:
    """What a command says on both streams, in its order, progress bars included; scrubbed."""
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "COLUMNS": "120"}
    quiet |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    output = folder / "console.txt"
    with output.open("wb") as told:
        done = subprocess.run(
            command, stdout=told, stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, **quiet, **more}
        )
    said = output.read_bytes().decode(errors="replace")
    output.unlink()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{said[-4000:]}")
    return scrubbed(said, folder)


def myself(inner: str, *words: str) -> list[str]:
    """The command of one of the inner functions below, for a process of its own."""
    return [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), inner, *words]


def put(text: str, place: Path) -> None:
    """Write as it is: no line end is translated."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text.encode())


def fresh(folder: Path) -> Path:
    """An empty folder of that name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# ---- TRL ----

TRL: Row = {"max_steps": 30, "disable_tqdm": False, "learning_rate": 2e-2, "lr_scheduler_type": "constant"}


def letters(completions: list[Any], **_: Any) -> list[float]:
    """One for an answer that begins with enough letters of the first nine."""
    return [float(sum(letter in "abcdefghi" for letter in str(text)[:8]) >= 2) for text in completions]


def short(completions: list[Any], **_: Any) -> list[float]:
    """Half a point for an answer that ends before its limit."""
    return [0.5 * (len(str(text)) < 12) for text in completions]


def train_trl(words: list[str]) -> None:
    """In a process of its own: a real training of TRL in the working directory."""
    socket.gethostname = lambda: "host"  # TensorBoard names its files after it
    import tiny_trl

    settings: Row = {**TRL, **json.loads(words[0])}
    made = tiny_trl.tokenizer()
    tiny_trl.model(len(made)).save_pretrained("model")  # a reference model is read again from its folder
    trainer = tiny_trl.trainer(Path("out"), model="model", reward_funcs=[letters, short], **settings)
    trainer.train()
    trainer.save_state()


def trained_trl(folder: Path, **settings: Any) -> str:
    """Its console."""
    words = {"TENSORBOARD_LOGGING_DIR": "runs"}
    if "wandb" in settings.get("report_to", []):
        words |= {"WANDB_MODE": "offline", "WANDB_RUN_ID": "3f9x1c2a", "WANDB_PROJECT": "tiny-grpo"}
        words |= {"WANDB_X_DISABLE_META": "true", "WANDB_X_DISABLE_STATS": "true", "WANDB_DISABLE_GIT": "true"}
        words |= {"WANDB_DISABLE_CODE": "true", "WANDB_USERNAME": "user", "WANDB_HOST": "host"}
    return run(myself("_trl", json.dumps(settings)), folder, **words)


def trl(out: Path) -> None:
    """TRL as it is now: an output folder with two checkpoints, completions, console and TensorBoard of one run."""
    with workshop() as folder:
        settings: Row = {"beta": 0.04, "log_completions": True, "num_completions_to_print": 2}
        settings |= {"save_strategy": "steps", "save_steps": 15, "report_to": ["tensorboard"]}
        put(trained_trl(folder, **settings), fresh(out / "trl") / "console.log")
        for state in sorted(folder.glob("out/checkpoint-*/trainer_state.json")):
            put(state.read_text(), out / "trl" / state.parent.name / state.name)
        shutil.copytree(folder / "out/completions", out / "trl/completions")
        events = next(folder.glob("runs/events.out.tfevents.*"))
        shutil.copyfile(events, fresh(out / "tensorboard") / "events.out.tfevents.1790000000.host.1.0")


def trl_reuse(out: Path) -> None:
    """The same with num_iterations=2, a learning rate that it does not survive, and values averaged over no gap."""
    with workshop() as folder:
        console = trained_trl(folder, num_iterations=2, max_steps=60, learning_rate=6e-2, beta=0.0)
        put(console, fresh(out / "trl-reuse") / "console.log")
        put((folder / "out/trainer_state.json").read_text(), out / "trl-reuse/trainer_state.json")


def trl_old(out: Path) -> None:
    """TRL 0.19 on transformers 4: a console whose values are numbers, each the mean of two steps."""
    with workshop() as folder:
        console = trained_trl(folder, beta=0.04, max_steps=60, logging_steps=2)
        put(console, fresh(out / "trl-old") / "console.log")


def trl_first(out: Path) -> None:
    """TRL 0.15, whose names were others: console and trainer_state.json."""
    with workshop() as folder:
        console = trained_trl(folder, beta=0.04, max_steps=40)
        put(console, fresh(out / "trl-0.15") / "console.log")
        put((folder / "out/trainer_state.json").read_text(), out / "trl-0.15/trainer_state.json")


def history(state: Path) -> list[Row]:
    """What a trainer_state.json has logged, without the summary that ends it."""
    return [entry for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]


def panel(key: str, runs: dict[str, list[Row]]) -> str:
    """One panel of W&B as its user interface exports it: a row a step, three columns a run, all quoted."""
    names = ["train/global_step"]
    names += [f"{run} - train/{key}{part}" for run in runs for part in ("", "__MIN", "__MAX")]
    told = {run: {entry["step"]: entry[key] for entry in entries if key in entry} for run, entries in runs.items()}
    rows = [names]
    for step in sorted({step for values in told.values() for step in values}):
        rows.append([str(step)] + [str(values.get(step, "")) for values in told.values() for _ in range(3)])
    return "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in rows)


def wandb(out: Path) -> None:
    """A W&B run recorded offline through TRL, and the panels of it and of a second one as the web page exports them."""
    with workshop() as folder:
        trained_trl(folder, max_steps=20, report_to=["wandb"], run_name="hearty-leaf-10")
        ran = next(folder.glob("wandb/offline-run-*"))
        kept = fresh(out / "wandb") / "offline-run-20260101_120000-3f9x1c2a"
        put((ran / "files/output.log").read_text(), kept / "files/output.log")
        shutil.copyfile(next(ran.glob("run-*.wandb")), kept / "run-3f9x1c2a.wandb")
        runs = {"hearty-leaf-10": history(folder / "out/trainer_state.json")}
        trained_trl(folder, max_steps=30, seed=4)
        runs["solar-dew-11"] = history(folder / "out/trainer_state.json")
        for key in ("reward", "grad_norm"):
            put(panel(key, runs), out / f"wandb/wandb_export_{key}.csv")


# ---- ms-swift ----

PLUGIN = """
from swift.rewards import ORM, orms

class Letters(ORM):
    def __call__(self, completions, **kwargs):
        return [float(sum(letter in "abcdefghi" for letter in text[:8]) >= 2) for text in completions]

orms["letters"] = Letters
"""
SWIFT = """
--rlhf_type grpo --model_type qwen2 --template dummy --tuner_type full --use_cpu true --torch_dtype float32
--reward_funcs letters --num_generations 4 --per_device_train_batch_size 4 --num_iterations 2 --max_steps 40
--max_completion_length 12 --learning_rate 1e-2 --logging_steps 1 --save_strategy no --report_to none
--steps_per_generation 2 --gradient_accumulation_steps 1 --dataset_num_proc 1 --dataloader_num_workers 0
--log_completions true --log_entropy true --model model --dataset data.jsonl --output_dir out
--external_plugins rewards.py
"""


def swift(out: Path) -> None:
    """A real `swift rlhf --rlhf_type grpo`: logging.jsonl, completions.jsonl and its console."""
    import tiny_trl

    with workshop() as folder:
        made = tiny_trl.tokenizer()
        tiny_trl.model(len(made)).save_pretrained(folder / "model")
        made.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        made.save_pretrained(folder / "model")
        rows = [{"messages": [{"role": "user", "content": f"{number}+{number}="}]} for number in range(32)]
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "rewards.py").write_text(PLUGIN)
        words = [sys.executable, "-m", "swift.cli.main", "rlhf", *SWIFT.split()]
        console = re.sub(r".*NetworkError.*\n", "", run(words, folder, PYTHONWARNINGS="ignore"))
        put(console, fresh(out / "swift") / "console.log")
        for name in ("logging.jsonl", "completions.jsonl"):
            put(scrubbed(next(folder.glob(f"out/*/{name}")).read_text(), folder), out / "swift" / name)


# ---- numbers for the tools that train on GPUs alone: those of sample_logs/collapse, a real run ----


def miniature(steps: int = 60) -> tuple[list[Any], dict[int, list[Row]]]:
    """The observations of each step, and the responses of its rollout batch, each once."""
    from lldwatch import Run

    recorded = Run(ROOT / "sample_logs" / "collapse")
    responses: dict[int, list[Row]] = {}
    for row in recorded.responses().to_pylist():
        if row["update"] == 0 or not any(row["uid"] == known["uid"] for known in responses.get(row["step"], [])):
            responses.setdefault(row["step"], []).append(row)
    return recorded.observations()[:steps], responses


def seconds(step: int, least: float) -> float:
    """How long a stage took: no clock's value, the same each time."""
    return round(least * (1 + 0.07 * (step * 7919 % 13) / 13), 9)


def fallen(rows: list[Row]) -> float:
    """Mean over tokens of how far the log-probs fell in the updates: what several trainers call ppo_kl."""
    tokens = sum(row["tokens"] for row in rows)
    return sum(row["old_log_prob"] - row["log_prob"] for row in rows) / max(tokens, 1)


# ---- verl: its own Tracking, metrics and dump, inside a task of Ray; the numbers are the miniature's ----


def verl_batch(rows: list[Row]) -> Any:
    """A rollout batch as verl has it, of the recorded rewards, advantages and lengths."""
    import torch
    from verl import DataProto

    width, prompt = 64, 10
    lengths = torch.tensor([row["tokens"] for row in rows])[:, None].clamp(max=width)
    mask = (torch.arange(width) < lengths).long()
    prompts = (torch.arange(prompt) >= torch.tensor([row["group"] % 4 for row in rows])[:, None]).long()
    scores = torch.zeros(len(rows), width).scatter(1, lengths - 1, torch.tensor([[row["reward"]] for row in rows]))
    advantages = torch.tensor([[row["advantage"]] for row in rows]) * mask
    tensors = {"token_level_scores": scores, "token_level_rewards": scores, "advantages": advantages}
    tensors |= {"returns": advantages, "values": torch.zeros_like(scores), "responses": mask, "prompts": prompts}
    return DataProto.from_dict({**tensors, "attention_mask": torch.cat([prompts, mask], 1), "response_mask": mask})


def verl_actor(seen: Any, rows: list[Row], *, old: bool) -> Row:
    """What the workers send to verl's driver: a list a key, which it averages."""
    told = {"actor/pg_loss": seen.loss, "actor/pg_clipfrac": seen.clip_fraction, "actor/ppo_kl": fallen(rows)}
    told |= {"actor/grad_norm": seen.grad_norm}
    if old:
        told |= {"actor/entropy_loss": seen.entropy, "actor/lr(1e-4)": seen.learning_rate * 1e4}
    else:
        told |= {"actor/entropy": seen.entropy, "actor/pg_clipfrac_lower": 0.0, "actor/loss": seen.loss}
        told |= {"actor/lr": seen.learning_rate}
    return {key: [value] for key, value in told.items()}


def verl_validation(rows: list[Row]) -> Row:
    """Names and statistics of a validation, as verl makes them."""
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    chosen = [row for row in rows if row["uid"] % 5 == 0]
    infos = {"reward": [row["reward"] for row in chosen]}
    sources = ["searchR1_nq"] * len(chosen)
    return RayPPOTrainer._val_metrics_update(None, sources, [str(row["uid"]) for row in chosen], infos, [])


def log_verl(steps: int) -> None:
    """The end of each step of verl 0.9's RayPPOTrainer.fit, with its functions, to the console and to a file."""
    import time
    from pprint import pprint

    from tqdm import tqdm
    from verl.trainer.ppo.metric_utils import compute_data_metrics, compute_throughout_metrics, compute_timing_metrics
    from verl.utils.metric import reduce_metrics
    from verl.utils.tracking import Tracking

    seen, responses = miniature(steps)
    logger = Tracking("tiny-grpo", "collapse", ["console", "file"])
    validation = verl_validation(responses[1])
    pprint(f"Initial validation metrics: {validation}")
    logger.log(data=validation, step=0)
    bar = tqdm(total=steps, initial=0, desc="Training Progress")
    for step in range(1, steps + 1):
        rows, metrics = responses[step], reduce_metrics(verl_actor(seen[step - 1], responses[step], old=False))
        timing = {"gen": seconds(step, 3.1), "old_log_prob": seconds(step + 1, 0.8), "adv": seconds(step, 0.01)}
        timing |= {"update_actor": seconds(step + 2, 5.3), "step": seconds(step, 9.6)}
        validation = verl_validation(rows) if step % 20 == 0 or step == steps else {}
        metrics |= {**validation, "training/global_step": step, "training/epoch": 0}
        batch = verl_batch(rows)
        batch.meta_info["global_token_num"] = batch.batch["attention_mask"].sum(-1).tolist()
        metrics |= compute_data_metrics(batch=batch, use_critic=False) | compute_timing_metrics(batch, timing)
        logger.log(data=metrics | compute_throughout_metrics(batch, timing, n_gpus=1), step=step)
        bar.update(1)
        time.sleep(0.5)
    pprint(f"Final validation metrics: {validation}")
    bar.close()


def log_verl_old(steps: int) -> None:
    """The same for verl 0.1 (steps from 0, no key of a later version) and 0.2 (validation alone first and last)."""
    import time

    import verl
    from verl.trainer.ppo.ray_trainer import compute_data_metrics, reduce_metrics
    from verl.utils.tracking import Tracking

    first = Path(verl.__file__).parents[1].name == "verl-0.1"
    logger = Tracking("tiny-grpo", "collapse", ["console"])
    seen, responses = miniature(steps)
    for step in range(steps):
        rows, metrics = responses[step + 1], {}
        if not first and step == 0:
            logger.log(data={"val/test_score/nq": sum(row["reward"] for row in rows) / len(rows)}, step=0)
        section = "timing" if first else "timing_s"
        metrics |= {f"{section}/gen": seconds(step, 18.6), f"{section}/adv": seconds(step, 0.2)}
        metrics |= {f"{section}/update_actor": seconds(step + 2, 5.3), "critic/kl": -0.0, "critic/kl_coeff": 0.001}
        actor = reduce_metrics(verl_actor(seen[step], rows, old=True))
        if not first:
            actor["actor/lr"] = actor.pop("actor/lr(1e-4)") * 1e-4
        metrics |= {**actor, **compute_data_metrics(verl_batch(rows), *([] if first else [False]))}
        logger.log(data=metrics, step=step if first else step + 1)
        time.sleep(0.5)
    if not first:
        logger.log(data={"val/test_score/nq": sum(row["reward"] for row in rows) / len(rows)}, step=steps + 1)


def inside_ray(words: list[str]) -> None:
    """In a process of its own: the trainer's loop in a task of Ray, whose prints Ray shows with a coloured prefix."""
    import ray

    loop, steps, folder = words[0], int(words[1]), Path.cwd()
    loops = {"verl": log_verl, "verl-old": log_verl_old, "openrlhf": log_openrlhf}
    ray.init(num_cpus=2, include_dashboard=False)

    def main_task() -> None:
        os.chdir(folder)
        loops[loop](steps)

    class TaskRunner:
        def run(self) -> None:
            main_task()

    if loop == "verl-old":
        ray.get(ray.remote(num_cpus=1)(main_task).remote())
    else:
        TaskRunner.__name__ = "PPOTrainer" if loop == "openrlhf" else "TaskRunner"
        ray.get(ray.remote(num_cpus=1)(TaskRunner).remote().run.remote())
    ray.shutdown()


def in_ray(folder: Path, *words: str, **more: str) -> str:
    """What such a process says; the disk is never full enough for Ray's warnings, so its threshold is low."""
    settings = {"RAY_local_fs_capacity_threshold": "0.05", "VERL_USE_EXTERNAL_PLUGINS": "none"}
    settings |= {
        "PYTHONWARNINGS": "ignore",
        "VERL_FILE_LOGGER_PATH": str(folder / "file.jsonl"),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    return run(myself("_ray", *words), folder, **settings, **more)


def verl(out: Path) -> None:
    """The newest verl: console (numpy reprs, validation-only line), file logger, rollout dumps."""
    with workshop() as folder:
        put(in_ray(folder, "verl", "48"), fresh(out / "verl") / "console.log")
        put((folder / "file.jsonl").read_text(), out / "verl/file.jsonl")
    dump_rollouts(out / "verl" / "rollouts")


def dump_rollouts(out: Path) -> None:
    """The writer of trainer.rollout_data_dir, verl's own, on the completions that TRL wrote."""
    import pyarrow.parquet as pq
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    for step in range(1, 21):
        rows = pq.read_table(HERE / f"trl/completions/completions_{step:05d}.parquet").to_pylist()
        prompts, texts = [row["prompt"] for row in rows], [row["completion"] for row in rows]
        truths = [str(2 * int(prompt.partition("+")[0])) for prompt in prompts]
        scores = [row["letters"] + row["short"] for row in rows]
        extra = {"acc": [bool(row["letters"]) for row in rows]}
        RayPPOTrainer._write_generations(prompts, texts, truths, scores, extra, str(out), step)


def verl_old(out: Path) -> None:
    """Consoles of verl 0.1 and 0.2: three decimals."""
    for version in ("0.1", "0.2"):
        with workshop() as folder:
            console = in_ray(folder, "verl-old", "40", PYTHONPATH=str(Path(sys.prefix) / f"verl-{version}"))
            put(console, fresh(out / f"verl-{version}") / "console.log")


# ---- OpenRLHF: its own logger, inside an actor of Ray; the numbers are the miniature's ----


def module_of(package: str, *parts: str) -> Any:
    """One module of an installed package by its file: the package itself wants what a GPU needs when it is imported."""
    from importlib.util import find_spec, module_from_spec, spec_from_file_location

    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package} is not installed")
    spec = spec_from_file_location(parts[-1], Path(found.submodule_search_locations[0], *parts).with_suffix(".py"))
    if spec is None or spec.loader is None:
        raise SystemExit(f"{package} has no {'/'.join(parts)}")
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def shares(rows: list[Row]) -> Row:
    """What a rollout batch's responses come to, in plain names."""
    rewards, lengths = [row["reward"] for row in rows], [row["tokens"] for row in rows]
    mean = sum(rewards) / len(rows)
    groups: dict[int, set[float]] = {}
    for row in rows:
        groups.setdefault(row["group"], set()).add(row["reward"])
    tokens = sum(lengths)
    told = {"reward": mean, "std": (sum((x - mean) ** 2 for x in rewards) / (len(rows) - 1)) ** 0.5, "tokens": tokens}
    told |= {"length": tokens / len(rows), "longest": max(lengths), "shortest": min(lengths), "count": len(rows)}
    told |= {"none": sum(x == {0.0} for x in groups.values()), "all": sum(x == {1.0} for x in groups.values())}
    told |= {"best": max(rewards), "worst": min(rewards)}
    told |= {"log_prob": sum(row["old_log_prob"] for row in rows) / tokens, "groups": len(groups)}
    return told | {"advantage": sum(row["advantage"] for row in rows) / len(rows)}


def openrlhf_status(step: int, seen: Any, rows: list[Row]) -> Row:
    """The keys of OpenRLHF 0.11: of the actor's training, then timing, then the rollouts."""
    told = shares(rows)
    status = {"policy_loss": seen.loss, "entropy_loss": seen.entropy, "ppo_clip_ratio": seen.clip_fraction}
    status |= {"ppo_kl": fallen(rows), "kl": 0.0, "logprobs_diff": 0.0, "reward": told["reward"]}
    status |= {"response_length": told["length"], "total_length": told["length"] + 8.5}
    status |= {"truncated": seen.truncated_share}
    status |= {"actor_lr": seen.learning_rate, "actor_grad_norm": seen.grad_norm}
    status |= {"timing/make_experience": seconds(step, 1.1), "timing/ppo_train": seconds(step + 2, 5.3)}
    status |= {"timing/broadcast": seconds(step, 0.4), "rollout/reward_mean": told["reward"]}
    status |= {"rollout/reward_std": told["std"], "rollout/response_length_mean": told["length"]}
    status |= {"rollout/truncated_rate": seen.truncated_share, "rollout/num_samples": float(told["count"])}
    status |= {"timing/generation": seconds(step, 3.1)}
    return status | {"timing/step_total": sum(value for key, value in status.items() if key.startswith("timing/"))}


def log_openrlhf(steps: int) -> None:
    """The end of each step of PPOTrainer.fit."""
    import logging
    import time

    from tqdm import tqdm

    logger = module_of("openrlhf", "utils", "logging_utils").init_logger("openrlhf.trainer.ppo_trainer")
    seen, responses = miniature(steps)
    bar = tqdm(range(steps), desc="Episode [1/1]")
    for step in range(1, steps + 1):
        time.sleep(0.15)
        said = f"✨ Global step {step}: {openrlhf_status(step, seen[step - 1], responses[step])}"
        where = ("ppo_trainer.py", 551)  # its line there
        logger.handle(logger.makeRecord(logger.name, logging.INFO, *where, said, (), None))
        bar.update(1)


def openrlhf(out: Path) -> None:
    """A console of OpenRLHF."""
    with workshop() as folder:
        put(in_ray(folder, "openrlhf", "48"), fresh(out / "openrlhf") / "console.log")


# ---- AReaL: its own logger and its own table; the numbers are the miniature's ----


def areal_stats(step: int, seen: Any, rows: list[Row]) -> Row:
    """The keys of AReaL 1.0, those of them that the miniature has."""
    told, changes = shares(rows), [(row["log_prob"] - row["old_log_prob"]) / row["tokens"] for row in rows]
    edges = ("avg", "min", "max")
    stats = {"ppo_actor/n_seqs": told["count"], "ppo_actor/n_tokens": told["tokens"]}
    stats |= {"ppo_actor/correct_n_seqs": sum(row["correct"] for row in rows)}
    advantages = [row["advantage"] for row in rows]
    for name, values in (("advantages", advantages), ("task_reward", [row["reward"] for row in rows])):
        sizes = (sum(values) / len(values), min(values), max(values))
        stats |= {f"ppo_actor/{name}/{edge}": size for edge, size in zip(edges, sizes, strict=True)}
    stats |= {"ppo_actor/seq_len/avg": told["length"] + 8.5, "ppo_actor/no_eos_ratios/avg": seen.truncated_share}
    stats |= {"ppo_actor/eps_clip": 0.2, "ppo_actor/update/approx_kl/avg": fallen(rows)}
    stats |= {"ppo_actor/update/approx_kl/min": -max(changes), "ppo_actor/update/approx_kl/max": -min(changes)}
    stats |= {"ppo_actor/update/entropy/avg": seen.entropy, "ppo_actor/update/actor_loss/avg": seen.loss}
    stats |= {"ppo_actor/update/clip_ratio/avg": seen.clip_fraction, "ppo_actor/update/old_logp/avg": told["log_prob"]}
    stats |= {"ppo_actor/update/grad_norm": seen.grad_norm, "ppo_actor/update/lr": seen.learning_rate}
    return stats | {"ppo_actor/update/update_successful": 1.0, "timeperf/rollout": seconds(step, 3.1)}


def log_areal(words: list[str]) -> None:
    """In a process of its own: what StatsLogger.commit says of each step."""
    logger = module_of("areal", "utils", "logging").getLogger("StatsLogger", "system")
    tables, steps = module_of("areal", "utils", "printing"), int(words[0])
    seen, responses = miniature(steps)
    for step in range(1, steps + 1):
        logger.info(f"Epoch 1/1 Step {step}/{steps} Train step {step}/{steps} done.")
        logger.info("Stats (1/1):")
        logger.info("\n" + tables.tabulate_stats(areal_stats(step, seen[step - 1], responses[step])))
    logger.info("Training completes! Total time elapsed 583.21.")


def areal(out: Path) -> None:
    """A console of AReaL."""
    with workshop() as folder:
        put(run(myself("_areal", "24"), folder), fresh(out / "areal") / "console.log")


# ---- made after the source: trainers that are on no package index; the numbers are the miniature's ----


def single(value: float) -> float:
    """As TensorBoard keeps it, in 32 bits."""
    import struct

    return float(struct.unpack("f", struct.pack("f", value))[0])


def lines_of(rows: list[Any], **how: Any) -> str:
    """JSON, a row a line; NaN as Python writes it."""
    return "".join(json.dumps(row, **how) + "\n" for row in rows)


def training(steps: int) -> Iterator[tuple[int, Any, Any, Any, Any]]:
    """A training of the miniature's, batch by batch: rollouts, advantages, the trainer's log-probs before and after."""
    import numpy as np
    import torch

    from lldwatch.search_world import grpo, task
    from lldwatch.search_world.objective import group_advantages, grpo_loss
    from lldwatch.search_world.pretrain import base_policy

    policy, scenario, world = base_policy(), grpo.SCENARIOS["collapse"], np.random.default_rng([0, 2])
    sampling, shuffle = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=scenario.learning_rate)
    for step in range(1, steps + 1):
        prompts = [task.draw_prompt(world) for _ in range(scenario.prompts)]
        batch = grpo.rollout(policy, prompts, scenario.responses, sampling, world, index=step - 1)
        advantages = group_advantages(batch.rewards, batch.group)
        before = [part.detach() for part in policy.log_probs(batch.tokens)]
        for rows in grpo.mini_batches(len(batch.rewards), scenario, shuffle):
            part = grpo.rows_of(batch, rows)
            new, _ = policy.log_probs(part.tokens)
            optimizer.zero_grad()
            grpo_loss(new, part.old_log_probs, advantages[rows], part.response_mask, scenario.clip_range).backward()
            optimizer.step()
        yield step, batch, advantages, before, [part.detach() for part in policy.log_probs(batch.tokens)]


def nemo_metrics(steps: int) -> Row:
    """NeMo-RL's TensorBoard scalars as its tests/json_dump_tb_logs.py writes them: metric, step, value."""
    seen, responses = miniature(steps)
    found: dict[str, Row] = {}
    for step in range(1, steps + 1):
        now, told = seen[step - 1], shares(responses[step])
        metrics = {"loss": now.loss, "grad_norm": now.grad_norm, "lr": now.learning_rate, "reward": told["reward"]}
        metrics |= {"approx_entropy": now.entropy, "token_mult_prob_error": 1.0, "gen_kl_error": 0.0}
        metrics |= {"advantages/mean": told["advantage"], "mean_gen_tokens_per_sample": told["length"]}
        metrics |= {"global_valid_seqs": told["count"], "global_valid_toks": told["tokens"], "mean_prompt_length": 8.5}
        metrics |= {"probs_ratio": math.exp(-fallen(responses[step]))}
        metrics = {f"train/{name}": value for name, value in metrics.items()}
        metrics |= {"timing/train/total_step_time": seconds(step, 9.6)}
        if step % 10 == 0:
            metrics["validation/accuracy"] = told["reward"]
        for name, value in metrics.items():
            found.setdefault(name, {})[str(step)] = single(value)
    return dict(sorted(found.items()))


def nemo_rl(out: Path) -> None:
    """metrics.json, and train_data_step{N}.jsonl of three steps of a training of the miniature's."""
    from lldwatch.search_world import task

    put(json.dumps(nemo_metrics(60), indent=2), fresh(out / "nemo-rl") / "metrics.json")
    for step, batch, advantages, before, _ in training(3):
        rows = []
        for place in range(10):
            mask = batch.response_mask[place]
            told = {"content": task.decode(batch.tokens[place].tolist()), "rewards": batch.rewards[place].item()}
            told |= {"input_lengths": int((batch.tokens[place] != task.PAD).sum())}
            told |= {"token_ids": batch.tokens[place].tolist(), "token_loss_mask": mask.long().tolist()}
            told |= {"sample_loss_mask": 1.0, "advantages": [advantages[place].item()] * len(mask)}
            told |= {"generation_logprobs": batch.old_log_probs[place].tolist()}
            told |= {"prev_logprobs": before[0][place].tolist()}
            rows.append({**{name: [value] for name, value in told.items()}, "idx": place})
        put(lines_of(rows), out / f"nemo-rl/train_data_step{step}.jsonl")


def prime_metrics(steps: int) -> list[Row]:
    """prime-rl's metrics.jsonl: a line of the orchestrator and four of the trainer for each step."""
    seen, responses = miniature(steps)
    lines: list[Row] = []
    for step in range(1, steps + 1):
        now, told, clock = seen[step - 1], shares(responses[step]), 1790000000.0 + 9.7 * step
        agent = "train/agg/effective/policy"
        reward = {"mean": told["reward"], "max": told["best"], "min": told["worst"]}
        metrics = {f"{agent}/reward/{name}": value for name, value in reward.items()}
        metrics |= {f"{agent}/num_output_tokens/mean": told["length"]}
        metrics |= {f"{agent}/is_truncated/mean": now.truncated_share}
        solved = {"none": told["none"] / told["groups"], "all": told["all"] / told["groups"]}
        metrics |= {f"train/agg/all/policy/solved_{name}": share for name, share in solved.items()}
        metrics |= {"progress/tokens": told["tokens"], "progress/rollouts": told["count"]}
        metrics |= {"time/step": seconds(step, 9.6), "off_policy/mean": 0.0, "off_policy/dropped": 0.0}
        stats = {"entropy/all/mean": now.entropy, "loss/mean": now.loss}
        stats |= {"is_masked/mean": now.clip_fraction, "mismatch_kl/all/mean": fallen(responses[step])}
        stats |= {"kl_ent_ratio/mean": fallen(responses[step]) / now.entropy}
        parts = [metrics, {"perf/throughput": told["tokens"] / 5.3}]
        parts += [{"optim/lr": now.learning_rate, "optim/grad_norm": now.grad_norm}, stats]
        parts += [{"time/step": seconds(step, 9.7), "time/forward_backward": seconds(step + 2, 5.3)}]
        lines += [{"step": step, "time": clock + 0.001 * place, **part} for place, part in enumerate(parts)]
    return lines


def prime_sample(rank: int, place: int, step: int, arrays: Row) -> Row:
    """One sample of token_exports, with what prime-rl computes of the two log-probs."""
    inference, trainer, mask = arrays["inference_logprobs"], arrays["trainer_logprobs"], arrays["loss_mask"]
    ratios = [new - old for new, old in zip(trainer, inference, strict=True)]
    deltas = [math.exp(new) - math.exp(old) for new, old in zip(trainer, inference, strict=True)]
    known = zip(mask, arrays["advantages"], deltas, strict=True)
    high = [bool(inside and size > 0 and delta > 0.2) for inside, size, delta in known]
    known = zip(mask, arrays["advantages"], deltas, strict=True)
    low = [bool(inside and size < 0 and delta < -0.2) for inside, size, delta in known]
    told: Row = {"schema_version": 1, "step": step, "rank": rank, "micro_step": place, "micro_sequence_idx": 0}
    told |= {"export_sequence_idx": place, "env_name": "search-world", **arrays}
    told |= {"mismatch_kl": [math.exp(ratio) - ratio - 1 for ratio in ratios], "log_importance_ratio": ratios}
    told |= {"importance_ratio": [math.exp(ratio) for ratio in ratios], "prob_delta": deltas}
    told |= {"is_masked": [a or b for a, b in zip(high, low, strict=True)]}
    told |= {"is_masked_high": high, "is_masked_low": low}
    return told | {name: [None] * len(mask) for name in ("rl_weights", "ce_weights", "ref_kl_weights")}


def prime_rl(out: Path) -> None:
    """metrics.jsonl, and token_exports of two steps and two ranks."""
    from lldwatch.search_world import task

    put(lines_of(prime_metrics(48)), fresh(out / "prime-rl") / "metrics.jsonl")
    for step, batch, advantages, _, after in training(2):
        for rank in (0, 1):
            rows = []
            for place, row in enumerate(range(5 * rank, 5 * rank + 5)):
                length = int((batch.tokens[row] != task.PAD).sum())
                mask = batch.response_mask[row]
                told: Row = {"token_ids": batch.tokens[row], "position_ids": (mask.long() * 0 + 1).cumsum(0) - 1}
                told |= {"loss_mask": mask, "advantages": advantages[row].expand(len(mask))}
                told |= {"inference_logprobs": batch.old_log_probs[row], "trainer_logprobs": after[0][row]}
                told["entropy"] = after[1][row]
                arrays = {name: values[:length].tolist() for name, values in told.items()}
                rows.append(prime_sample(rank, place, step, arrays))
            folder = out / f"prime-rl/token_exports/step_{step}"
            put(lines_of(rows, separators=(",", ":")), folder / f"rank_{rank}.jsonl")
            put("", folder / "STABLE")


def slime_lines(step: int, seen: Any, rows: list[Row]) -> list[tuple[str, str, Row]]:
    """Actor, place in its source, and dictionary of each line of a rollout."""
    told = shares(rows)
    rollout = {"rollout/response_len/mean": told["length"], "rollout/response_len/max": told["longest"]}
    rollout |= {"rollout/response_len/min": told["shortest"], "rollout/zero_std/count_0.0": told["none"]}
    rollout |= {"rollout/zero_std/count_1.0": told["all"], "rollout/truncated_ratio": seen.truncated_share}
    rollout |= {"perf/rollout_time": seconds(step, 3.1), "perf/tokens_per_gpu_per_sec": told["tokens"] / 3.1}
    data = {
        "rollout/response_lengths": told["length"],
        "rollout/rewards": told["advantage"],
        "rollout/raw_reward": told["reward"],
    }
    data |= {"rollout/truncated": seen.truncated_share, "rollout/total_lengths": told["length"] + 8.5}
    data |= {"rollout/log_probs": told["log_prob"], "rollout/advantages": told["advantage"]}
    train = {"train/loss": seen.loss, "train/pg_loss": seen.loss, "train/entropy_loss": seen.entropy}
    train |= {"train/pg_clipfrac": seen.clip_fraction, "train/ppo_kl": fallen(rows)}
    train |= {"train/train_rollout_logprob_abs_diff": 0.0, "train/grad_norm": seen.grad_norm}
    train |= {"train/lr-pg_0": seen.learning_rate, "train/lr-pg_1": seen.learning_rate}
    train |= {"train/global_batch_size": told["count"], "train/step": step}
    perf = {"perf/actor_train_time": seconds(step + 2, 5.3), "perf/train_wait_time": seconds(step, 3.5)}
    trainer = "MegatronTrainRayActor"
    return [
        ("RolloutManager", f"rollout_metrics.py:268 - perf {step}", rollout),
        (trainer, f"train_metric_utils.py:135 - rollout {step}", data),
        (trainer, f"model.py:918 - step {step}", train),
        (trainer, f"train_metric_utils.py:401 - perf {step}", perf),
    ]


def slime(out: Path) -> None:
    """A console of slime, with Ray's coloured prefix."""
    seen, responses = miniature(48)
    pids, said = {"RolloutManager": 4711, "MegatronTrainRayActor": 4712}, []
    for step in range(48):
        clock = f"2026-01-01 12:{step // 6:02d}:{step % 6 * 10:02d}"
        for actor, where, told in slime_lines(step, seen[step], responses[step + 1]):
            said.append(f"\x1b[36m({actor} pid={pids[actor]})\x1b[0m [{clock}] {where}: {told}\n")
    put("".join(said), fresh(out / "slime") / "console.log")


# ---- notebooks, really run; and what people write themselves, with the miniature's numbers ----

TRAIN = """
import tiny_trl
from record import letters, short

settings = {"max_steps": 40, "learning_rate": 2e-2, "num_iterations": 2, "disable_tqdm": False}
trainer = tiny_trl.trainer("out", reward_funcs=[letters, short], **settings)
"""
COLUMNS = """
from transformers.utils.notebook import NotebookProgressCallback


class _Columns(NotebookProgressCallback):  # as Unsloth does it: every metric of the trainer is a column
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            told = {k.replace("/", " / "): v for k, v in logs.items() if k.startswith(("reward", "completions", "kl"))}
            self.training_tracker.write_line({"Training Loss": logs["loss"], "Step": state.global_step, **told})


trainer.remove_callback(NotebookProgressCallback)
trainer.add_callback(_Columns)
"""


def notebook(out: Path) -> None:
    """Two notebooks, executed: the table of transformers, and the one with a column a metric; this one as HTML, too."""
    import nbclient
    import nbconvert
    import nbformat

    os.environ |= {"PYTHONPATH": f"{ROOT / 'tests/integrations'}:{HERE}", "HF_HUB_OFFLINE": "1"}
    fresh(out / "notebook")
    for name, cells in (("transformers", [TRAIN]), ("columns", [TRAIN, COLUMNS])):
        code = [nbformat.v4.new_code_cell(cell.strip()) for cell in (*cells, "trainer.train()")]
        made = nbformat.v4.new_notebook(cells=code)
        for place, cell in enumerate(made.cells):
            cell["id"] = f"cell-{place}"
        with workshop() as folder:
            nbclient.NotebookClient(made, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
            put(scrubbed(nbformat.writes(made), folder), out / f"notebook/{name}.ipynb")
            if name == "columns":
                body, _ = nbconvert.HTMLExporter(template_name="basic").from_notebook_node(made)
                page = f"<!DOCTYPE html>\n<html>\n<head><title>GRPO</title></head>\n<body>\n{body}\n</body>\n"
                put(scrubbed(page + "</html>\n", folder), out / "notebook/columns.html")


def course_lines() -> list[Row]:
    """Lines of a type each, as course code writes them: four optimizer steps, one an epoch, for each rollout batch."""
    from lldwatch import Run

    seen, responses = miniature(60)
    passes: dict[tuple[int, int], list[Row]] = {}
    for row in Run(ROOT / "sample_logs" / "collapse").responses().to_pylist():
        passes.setdefault((row["step"], row["update"] // 4), []).append(row)
    lines: list[Row] = [{"type": "config", "group_size": 5, "epochs_per_rollout_batch": 4, "cliprange": 0.2}]
    for step in range(1, 61):
        now, told = seen[step - 1], shares(responses[step])
        lines.append({"type": "rollout", "grpo_step": step, "reward_mean": told["reward"], "reward_std": told["std"]})
        for epoch in range(4):
            rows = passes[step, epoch]
            tokens, idle = sum(row["tokens"] for row in rows), not any(row["advantage"] for row in rows)
            line: Row = {"type": "train", "grpo_step": step, "optimizer_step": 4 * (step - 1) + epoch + 1}
            line |= {"loss": math.nan if idle else now.loss, "grad_norm": now.grad_norm}
            line |= {"token_entropy": sum(row["entropy"] * row["tokens"] for row in rows) / tokens}
            line |= {"clip_fraction": sum(row["clipped_tokens"] for row in rows) / tokens if epoch else None}
            lines.append({**line, "response_length": told["length"], "train_reward": told["reward"]})
        if step % 10 == 0:
            lines.append({"type": "eval", "grpo_step": step, "accuracy": told["reward"]})
    return lines


def plain_rows() -> list[Row]:
    """A row a step, under names of somebody's own."""
    seen, responses = miniature(80)
    rows = []
    for step, now in enumerate(seen, 1):
        told = shares(responses[step])
        row: Row = {"iteration": step, "mean_reward": told["reward"], "policy_entropy": now.entropy}
        row |= {"gradient norm": now.grad_norm, "resp_len": told["length"], "cut_off": now.truncated_share}
        rows.append(row | {"lp_drop": fallen(responses[step]), "correct_lp": now.log_prob_correct, "note": "tiny"})
    return rows


def plain(out: Path) -> None:
    """Typed JSONL, CSV, JSONL and Parquet of one run."""
    import csv
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, rows = fresh(out / "plain"), plain_rows()
    put(lines_of(course_lines()), folder / "typed.jsonl")
    put(lines_of(rows), folder / "metrics.jsonl")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    put(text.getvalue(), folder / "metrics.csv")
    pq.write_table(pa.Table.from_pylist(rows), folder / "metrics.parquet")


# ---- the command line ----

INNER: dict[str, Callable[[list[str]], None]] = {"_trl": train_trl, "_ray": inside_ray, "_areal": log_areal}
COMMANDS: dict[str, Callable[[Path], None]] = {
    **{"trl": trl, "trl-reuse": trl_reuse, "trl-old": trl_old, "trl-0.15": trl_first, "wandb": wandb, "swift": swift},
    **{"verl": verl, "verl-old": verl_old, "openrlhf": openrlhf, "areal": areal},
    **{"nemo-rl": nemo_rl, "prime-rl": prime_rl, "slime": slime},
    **{"notebook": notebook, "plain": plain},
}


def main(words: list[str]) -> None:
    """Run one command, or all of them."""
    if words and words[0] in INNER:
        return INNER[words[0]](words[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", nargs="+", choices=list(COMMANDS), metavar="TOOL", help=" ".join(COMMANDS))
    parser.add_argument("--out", type=Path, default=HERE, help="a folder; default: beside this script")
    options = parser.parse_args(words)
    for tool in options.tools:
        COMMANDS[tool](options.out.resolve())


if __name__ == "__main__":
    main(sys.argv[1:])
