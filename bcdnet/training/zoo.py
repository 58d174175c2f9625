"""Train the shipped models: every recipe of the zoo, some with several seeds, in order of dependency.

``python -m bcdnet.training.zoo`` goes on where it was stopped: results whose recipe did not change are left alone,
unfinished runs are resumed from their last saved state. Ctrl+C or SIGTERM ends it once its runs are saved.

What a run leaves behind, for every seed, is a folder ``assets/runs/NAME[-seedN]`` with the card of each step, the log
and the weights. Once all of a group are there, the checkpoints of seed 0 are published together: they move to
``assets/checkpoints`` and into the manifest, so that what ships was trained alike. Of the further seeds only those
weights stay that another run starts from.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from bcdnet.checkpoint import inspect
from bcdnet.files import LOG, assets_dir, write_atomically
from bcdnet.training.recipe import Recipe, RecipeError, load_recipe
from bcdnet.training.run import inputs, require_same_run

RECIPES = Path(__file__).parents[2] / "recipes"


@dataclass(frozen=True)
class Entry:
    """A recipe of the zoo: its file, how many seeds, and what it belongs to in the tables of results."""

    recipe: str
    group: str
    seeds: int = 1
    is_start: bool = False  # other runs of the same seed go on from it


#: In the order they are trained in.
ZOO = (
    Entry("fmnist_twin", "main"),
    Entry("fmnist_bcdnet_a", "main", 3, is_start=True),
    Entry("fmnist_reactnet_a", "main", 3),
    Entry("fmnist_bcdnet_b", "main", 3),
    Entry("fmnist_bcdnet_a_longer", "main"),
    Entry("fmnist_bcdnet_a_pss", "main"),
    Entry("fmnist_bcdnet_a_pll", "main"),
    Entry("elpv_twin", "elpv"),
    Entry("elpv_reactnet_a", "elpv"),
    Entry("elpv_bcdnet_a", "elpv"),
    Entry("elpv_bcdnet_b", "elpv"),
)
#: Order in which the dashboard lists what ships.
SHOWN = (
    "fmnist_bcdnet_a",
    "fmnist_bcdnet_b",
    "fmnist_bcdnet_a_longer",
    "fmnist_reactnet_a",
    "fmnist_bcdnet_a_pss",
    "fmnist_bcdnet_a_pll",
    "fmnist_bcdnet_a_step1",
    "fmnist_twin",
    "elpv_bcdnet_a",
    "elpv_bcdnet_b",
    "elpv_reactnet_a",
    "elpv_twin",
)


@dataclass(frozen=True)
class Job:
    """One run of the zoo: a recipe with a seed."""

    entry: Entry
    seed: int

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return self.entry.recipe + (f"-seed{self.seed}" if self.seed else "")

    @property
    def overrides(self) -> list[str]:
        """What ``--set`` changes in the recipe's file."""
        if not self.seed:
            return []
        recipe = load_recipe(RECIPES / f"{self.entry.recipe}.yaml")
        changed = [f"seed={self.seed}", f"name={self.name}"]
        if recipe.init is not None:  # the start is of the same seed
            changed.append(f"init={recipe.init}-seed{self.seed}")
        return changed

    def recipe(self) -> Recipe:
        """As it is trained."""
        return load_recipe(RECIPES / f"{self.entry.recipe}.yaml", self.overrides)

    def needs(self) -> set[str]:
        """Names of the runs whose weights it starts or learns from."""
        recipe, suffix = load_recipe(RECIPES / f"{self.entry.recipe}.yaml"), f"-seed{self.seed}" if self.seed else ""
        return {name for name in (recipe.teacher, recipe.init and recipe.init + suffix) if name}


def jobs() -> list[Job]:
    """First every recipe once, then the further seeds."""
    most = max(entry.seeds for entry in ZOO)
    return [Job(entry, seed) for seed in range(most) for entry in ZOO if seed < entry.seeds]


def results_dir(name: str) -> Path:
    """Where the cards and the log of one run lie."""
    return assets_dir() / "runs" / name


def done(job: Job) -> bool:
    """Whether the cards of every step are there and came of this very recipe, teacher and start."""
    try:
        recipe = job.recipe()
        cards = [_card(job.name, number) for number in range(1, len(recipe.steps) + 1)]
        return all(recipe.describes(card["recipe"]) and card["inputs"] == inputs(recipe) for card in cards)
    except (OSError, ValueError, KeyError):
        return False


def _card(name: str, number: int) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((results_dir(name) / f"step{number}.json").read_text(encoding="utf-8"))
    return card


def keep(job: Job, run: Path) -> None:
    """Copy a finished run's cards, log and weights to the assets."""
    recipe, results = job.recipe(), results_dir(job.name)
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / LOG, (run / LOG).read_bytes())
    for number, step in enumerate(recipe.steps, start=1):
        source = run / f"step{number}.safetensors"
        write_atomically(
            results / f"step{number}.json", (json.dumps(inspect(source)["card"], indent=1) + "\n").encode()
        )
        if step.id is not None and (not job.seed or job.entry.is_start):
            write_atomically(results / f"{step.id}.safetensors", source.read_bytes())


def publish(group: str) -> bool:
    """Move a group's weights to where the dashboard finds them, if all of its seeds 0 are there."""
    firsts = [Job(entry, 0) for entry in ZOO if entry.group == group]
    if not all(done(job) for job in firsts):
        return False
    checkpoints = assets_dir() / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for job in firsts:
        log = (results_dir(job.name) / LOG).read_bytes()
        for number, step in enumerate(job.recipe().steps, start=1):
            weights = results_dir(job.name) / f"{step.id}.safetensors"
            if step.id is not None and weights.exists():
                weights.replace(checkpoints / weights.name)
                card = (results_dir(job.name) / f"step{number}.json").read_bytes()
                write_atomically(checkpoints / f"{step.id}.json", card)
                write_atomically(checkpoints / f"{step.id}.csv", _log_until(log, number))
    write_manifest()
    return True


def _log_until(log: bytes, step: int) -> bytes:
    """The log of a run up to one of its steps, because a model's log ends where the model was taken."""
    header, *rows = log.decode().splitlines(keepends=True)
    return "".join([header, *(row for row in rows if int(row.split(",")[0]) <= step)]).encode()


def write_manifest() -> None:
    """List the shipped checkpoints in ``assets/manifest.json``."""
    models = []
    for name in SHOWN:
        path = assets_dir() / "checkpoints" / f"{name}.safetensors"
        if path.exists():
            entry = {"id": name, "title": inspect(path)["card"]["title"], "file": f"checkpoints/{name}.safetensors"}
            entry |= {"log": f"checkpoints/{name}.csv", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            models.append(entry)
    write_atomically(assets_dir() / "manifest.json", (json.dumps({"models": models}, indent=1) + "\n").encode())


def _start(job: Job, run: Path, threads: int) -> subprocess.Popen[bytes]:
    run.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bcdnet", "train", str(RECIPES / f"{job.entry.recipe}.yaml"), "--json"]
    for override in job.overrides:
        command += ["--set", override]
    if run.exists():
        try:
            require_same_run(run, job.recipe())
            command += ["--resume", str(run)]
        except RecipeError:  # of an older recipe or teacher: kept, but out of the way
            run.rename(run.with_name(f"{run.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with run.with_suffix(".out").open("ab") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


def _ready(waiting: list[Job], blocked: set[str]) -> Iterator[Job]:
    for job in waiting:
        if not job.needs() & blocked:
            yield job


def main(
    at_once: int = typer.Option(2, "--jobs", min=1, help="Runs at a time; the cores are shared out among them."),
    only: str = typer.Option("", help="Runs whose name holds this text, and nothing else."),
    list_only: bool = typer.Option(False, "--list", help="Say what is done and what is not; train nothing."),
) -> None:
    """Train and ship every model of the zoo."""
    console, threads = Console(stderr=True), max(1, torch.get_num_threads() // at_once)
    wanted = [job for job in jobs() if only in job.name]
    waiting = [job for job in wanted if not done(job)]
    if list_only:
        for job in wanted:
            console.print(f"{job.name}: {'to be trained' if job in waiting else 'done'}", highlight=False)
        return
    running: dict[Job, subprocess.Popen[bytes]] = {}
    failed: list[Job] = []
    blocked = {job.name for job in jobs() if not done(job)}  # nothing that starts from these can be trained yet
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # by way of the end of this function
    try:
        while waiting or running:
            for job, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                run = Path("runs") / job.name
                if process.returncode == 0:
                    keep(job, run)
                    blocked.discard(job.name)
                    published = publish(job.entry.group)
                    console.print(f"{job.name} is done" + (f"; {job.entry.group} is published" if published else ""))
                else:
                    failed.append(job)
                    console.print(f"{job.name} failed; its output is in {run.with_suffix('.out')}")
            for job in list(_ready(waiting, blocked))[: at_once - len(running)]:
                waiting.remove(job)
                running[job] = _start(job, Path("runs") / job.name, threads)
                console.print(f"started {job.name} with {threads} thread{'s' * (threads > 1)}")
            if not running and waiting:
                console.print(
                    f"not started, because what they need is not trained: {', '.join(job.name for job in waiting)}"
                )
                failed += waiting
                break
            time.sleep(1)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()  # each saves what it reached
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
