"""Train the shipped models: every recipe of the zoo in order of dependency, several at a time, and ship the results.

``python -m bcdnet.training.zoo`` goes on where it was stopped: shipped models whose recipe did not change are left
alone, unfinished runs are resumed after their last whole epoch.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import typer
from rich.console import Console

from bcdnet.checkpoint import CheckpointError, inspect
from bcdnet.files import assets_dir, write_atomically
from bcdnet.training.recipe import Recipe, RecipeError, load_recipe
from bcdnet.training.run import inputs, require_same_run

RECIPES = Path(__file__).parents[2] / "recipes"
ORDER = (
    "fmnist_twin",
    "fmnist_bcdnet_a",
    "fmnist_reactnet_a",
    "fmnist_bcdnet_b",
    "fmnist_bcdnet_a_longer",
    "fmnist_bcdnet_a_pss",
    "fmnist_bcdnet_a_pll",
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
)


def zoo_recipes() -> dict[str, Recipe]:
    """The recipes of the zoo by name, in order of dependency."""
    return {name: load_recipe(RECIPES / f"{name}.yaml") for name in ORDER}


def shipped(recipe: Recipe) -> bool:
    """Whether every checkpoint the recipe ships is there and came of this very recipe, teacher and start."""
    wanted = json.loads(json.dumps(recipe.to_dict()))
    for step in recipe.steps:
        if step.id is None:
            continue
        try:
            card = inspect(assets_dir() / "checkpoints" / f"{step.id}.safetensors")["card"]
        except CheckpointError:
            return False
        if card.get("recipe") != wanted or card.get("inputs") != inputs(recipe):
            return False
    return True


def ship(recipe: Recipe, run: Path) -> None:
    """Copy a finished run's checkpoints, cards and log to the assets and write the manifest anew."""
    folder = assets_dir() / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(recipe.steps, start=1):
        if step.id is None:
            continue
        source = run / f"step{number}.safetensors"
        write_atomically(folder / f"{step.id}.safetensors", source.read_bytes())
        card = json.dumps(inspect(source)["card"], indent=1) + "\n"
        write_atomically(folder / f"{step.id}.json", card.encode())
        write_atomically(folder / f"{step.id}.csv", _log_until(run / "log.csv", number))
    write_manifest()


def _log_until(log: Path, step: int) -> bytes:
    """The log of a run up to one of its steps, because a model's log ends where the model was taken."""
    header, *rows = log.read_text(encoding="utf-8").splitlines(keepends=True)
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


def _start(name: str, recipe: Recipe, run: Path, threads: int) -> subprocess.Popen[bytes]:
    run.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bcdnet", "train", str(RECIPES / f"{name}.yaml"), "--json"]
    if run.exists():
        try:
            require_same_run(run, recipe)
            command += ["--resume", str(run)]
        except RecipeError:  # of an older recipe or teacher: kept, but out of the way
            run.rename(run.with_name(f"{run.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with run.with_suffix(".out").open("ab") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


def main(jobs: int = typer.Option(2, min=1, help="Runs at a time; the cores are shared out among them.")) -> None:
    """Train and ship every model of the zoo."""
    console, threads = Console(stderr=True), max(1, torch.get_num_threads() // jobs)
    recipes = zoo_recipes()
    waiting = [name for name in ORDER if not shipped(recipes[name])]
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed: list[str] = []
    try:
        while waiting or running:
            for name, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                run = Path("runs") / name
                if process.returncode == 0:
                    ship(recipes[name], run)
                    console.print(f"shipped {name}")
                else:
                    failed.append(name)
                    console.print(f"{name} failed; its output is in {run.with_suffix('.out')}")
            ready = [n for n in waiting if not _needs(recipes[n]) & {*waiting, *running, *failed}]
            for name in ready[: jobs - len(running)]:
                waiting.remove(name)
                running[name] = _start(name, recipes[name], Path("runs") / name, threads)
                console.print(f"started {name} with {threads} thread{'s' * (threads > 1)}")
            if not running and waiting:
                console.print(f"not started, because what they need failed: {', '.join(waiting)}")
                break
            time.sleep(1)
    finally:
        for process in running.values():
            process.terminate()
    if failed:
        raise typer.Exit(1)


def _needs(recipe: Recipe) -> set[str]:
    return {name for name in (recipe.teacher, recipe.init) if name is not None}


if __name__ == "__main__":
    typer.run(main)
