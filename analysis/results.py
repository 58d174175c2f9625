"""What the zoo's runs came to: accuracy by recipe and step over seeds, and whether the paper's ordering shows.

``python -m analysis.results`` asks the shipped networks about every test image, keeps which they get right in
``assets/runs/answers.json``, and writes the tables of ``docs/results.md`` anew from that file and the runs' cards.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

import bcdnet
from analysis.binarization import binarization_error
from analysis.comparison import mcnemar_exact
from analysis.tradeoffs import paper_table
from bcdnet.data import open_dataset
from bcdnet.evaluate import evaluate
from bcdnet.files import assets_dir, write_atomically

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- results -->", "<!-- /results -->"
_ANSWERS = "answers.json"


@dataclass(frozen=True)
class Claim:
    """Something the paper says of two networks, and which two of the zoo's can say it too.

    ``ours`` is to be better than ``than``; ``gain``, in points of top-1 on ImageNet, is quoted from ``source``.
    """

    says: str
    ours: str
    than: str
    gain: float
    source: str


def claims() -> tuple[Claim, ...]:
    """The orderings of the paper that networks of the zoo were trained to test."""
    last = paper_table(6).set_index("setting").step2_600k_top1
    first = paper_table(1).set_index("method").top1
    table, caption = "Table 6, after 600k iterations", "Table 1; its B was also trained for longer"

    def gain(ours: str, than: str) -> float:
        return round(float(last[ours] - last[than]), 2)

    return (
        Claim("Binary MLPs are better than the convolutions they replace", "bcdnet_a", "reactnet_a",
              gain("P-S-L", "Convolution"), table),
        Claim("So are MLPs with short ranges alone", "bcdnet_a_pss", "reactnet_a", gain("P-S-S", "Convolution"), table),
        Claim("Long ranges add to short ones", "bcdnet_a", "bcdnet_a_pss", gain("P-S-L", "P-S-S"), table),
        Claim("Short ranges add to long ones", "bcdnet_a", "bcdnet_a_pll", gain("P-S-L", "P-L-L"), table),
        Claim("Context embeddings add to binary MLPs", "bcdnet_b", "bcdnet_a_longer",
              round(float(first["BCDNet-B"] - first["BCDNet-A"]), 2), caption),
        Claim("Context embeddings add to binary MLPs", "bcdnet_b", "bcdnet_a",
              round(float(first["BCDNet-B"] - first["BCDNet-A"]), 2), caption),
        Claim("Binary MLPs and context embeddings together are better than ReActNet-A", "bcdnet_b", "reactnet_a",
              round(float(first["BCDNet-B"] - first["ReActNet-A [23]"]), 2), caption),
    )  # fmt: skip


def read_results(folder: Path | None = None) -> pd.DataFrame:
    """Measured accuracy of every step of every run that is kept.

    Args:
        folder: of the runs' folders; the shipped one if None.

    Returns:
        Columns ``set`` (data set), ``model`` (recipe without its set), ``precision``, ``seed``, ``epochs`` up to there,
        those of the run it started from included, ``top1`` in percent and ``n`` test images; sorted. Empty if there is
        none.
    """
    folder = assets_dir() / "runs" if folder is None else folder
    rows = []
    for path in sorted(folder.glob("*/step*.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        recipe = path.parent.name.split("-seed")[0]
        number = int(path.stem.removeprefix("step"))
        rows.append(
            {
                "set": card["dataset"],
                "model": recipe.partition("_")[2],
                "precision": card["recipe"]["steps"][number - 1]["precision"],
                "seed": card["seed"],
                "epochs": _epochs(card["recipe"], number, folder),
                "top1": card["metrics"]["top1"],
                "n": card["metrics"]["n"],
            }
        )
    columns = ["set", "model", "precision", "seed", "epochs", "top1", "n"]
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:4], ignore_index=True)


def _epochs(recipe: Mapping[str, Any], steps: int, folder: Path) -> int:
    epochs = sum(step["epochs"] for step in recipe["steps"][:steps])
    if recipe.get("init") is None:
        return epochs
    cards = sorted((folder / recipe["init"]).glob("step*.json"))
    start = json.loads(cards[-1].read_text(encoding="utf-8"))["recipe"]
    return epochs + _epochs(start, len(start["steps"]), folder)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds.

    Args:
        results: from :func:`read_results`.

    Returns:
        Columns ``set``, ``model``, ``precision``, ``epochs``, ``seeds`` (their numbers), ``mean`` and ``sd`` (NaN for
        one seed), in percent; ``difference`` from ``reactnet_a`` of the same set and precision with its interval,
        ``low`` and ``high``, in points, and what the interval is ``over``: "seeds" (Welch) where both have several,
        else "images", those of two independent runs, of each the first seed; NaN and "" for ``reactnet_a`` itself and
        where there is none.
    """
    rows = []
    for keys, part in results.groupby(["set", "model", "precision", "epochs"], sort=False):
        about = dict(zip(("set", "model", "precision", "epochs"), keys, strict=True))
        alike = (results.set == about["set"]) & (results.precision == about["precision"])
        base = results[alike & (results.model == "reactnet_a")]
        difference, over = (math.nan,) * 3, ""
        if about["model"] != "reactnet_a" and len(base):
            over = "seeds" if min(len(part), len(base)) > 1 else "images"
            difference = welch(part.top1, base.top1) if over == "seeds" else unpaired(part.iloc[0], base.iloc[0])
        low_high = dict(zip(("difference", "low", "high"), difference, strict=True))
        numbers = {"seeds": tuple(map(int, part.seed)), "mean": part.top1.mean(), "sd": part.top1.std(ddof=1)}
        rows.append({**about, **numbers, **low_high, "over": over})
    columns = ["set", "model", "precision", "epochs", "seeds", "mean", "sd", "difference", "low", "high", "over"]
    return pd.DataFrame(rows, columns=columns)


def unpaired(ours: pd.Series, theirs: pd.Series, level: float = 0.95) -> tuple[float, float, float]:
    """Difference of two accuracies ``top1``, in percent of ``n`` independent images each: (difference, low, high).

    Wald's interval; wider than :func:`paired`, which needs the answers of both to each image.
    """
    shares = [(run.top1 / 100, run.n) for run in (ours, theirs)]
    error = math.sqrt(sum(share * (1 - share) / n for share, n in shares))
    difference, half = float(ours.top1 - theirs.top1), 100 * float(stats.norm.ppf((1 + level) / 2)) * error
    return difference, difference - half, difference + half


def answer(progress: bool = True) -> dict[str, dict[str, Any]]:
    """Which test images each published network gets right: measured now, binary ones by the packed engine.

    Returns:
        By id of the model: ``set``, ``model``, ``sha256`` of the checkpoint, ``n``, ``top1``, ``f1`` and ``auc`` in
        percent (None unless there are two classes), and ``right``, a bit an image, packed and in base64.
    """
    models = json.loads((assets_dir() / "manifest.json").read_text(encoding="utf-8"))["models"]
    found = {}
    for about in tqdm(models, "asking", disable=not progress, unit="network"):
        network = bcdnet.load(assets_dir() / about["file"])
        data = open_dataset(network.card["dataset"])
        result = evaluate(bcdnet.pack(network) if network.config.precision == "1/1" else network, data)
        truth = np.array(data.class_indices(network.card["classes"]))[data.labels]
        found[about["id"]] = {
            "set": data.name,
            "model": about["id"].partition("_")[2],
            "sha256": about["sha256"],
            "n": result.n,
            "top1": result.top1,
            "f1": result.f1,
            "auc": result.auc,
            "right": base64.b64encode(np.packbits(result.predictions == truth).tobytes()).decode(),
        }
    return found


def right(answers: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Whether each test image was classified correctly, from one value of :func:`answer`: bool (n,)."""
    bits = np.frombuffer(base64.b64decode(answers["right"]), np.uint8)
    return np.unpackbits(bits, count=answers["n"]).astype(bool)


def paired(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], level: float = 0.95) -> tuple[float, float, float]:
    """Difference of two accuracies on the same images, in percentage points: (difference, low, high).

    With b images that only the first gets right and c that only the second does, of n: (b - c) / n, and the interval of
    Wald for a paired difference, of variance (b + c - (b - c)^2 / n) / n^2.
    """
    n, b, c = len(ours), int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return 100 * (b - c) / n, 100 * ((b - c) / n - half), 100 * ((b - c) / n + half)


def welch(ours: pd.Series, theirs: pd.Series, level: float = 0.95) -> tuple[float, float, float]:
    """Difference of two means over seeds, at least two each, with Welch's interval: (difference, low, high)."""
    difference = float(ours.mean() - theirs.mean())
    parts = [runs.var(ddof=1) / len(runs) for runs in (ours, theirs)]
    error = math.sqrt(sum(parts))
    if not error:
        return difference, difference, difference
    freedom = sum(part**2 / (len(runs) - 1) for part, runs in zip(parts, (ours, theirs), strict=True))
    half = float(stats.t.ppf((1 + level) / 2, sum(parts) ** 2 / freedom)) * error
    return difference, difference - half, difference + half


def verdicts(results: pd.DataFrame, answers: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Each claim of the paper beside what the zoo's 1/1 networks say of it.

    Over seeds (Welch) where both networks have at least two, else over the test images that the published ones share.

    Args:
        results: from :func:`read_results`.
        answers: from :func:`answer`.

    Returns:
        Columns ``set``, ``says``, ``ours``, ``than``, ``quoted`` (points on ImageNet), ``source``, ``difference``,
        ``low``, ``high`` (points), ``over`` ("3 and 3 seeds", "images"), ``p`` (McNemar's exact test; NaN over seeds),
        ``epochs`` (of ours less than's), and ``verdict``: "shows", "does not show", or "the opposite shows".
    """
    final = results[results.precision == "1/1"]
    rows = []
    for dataset in dict.fromkeys(final.set):
        for claim in claims():
            sides = [final[(final.set == dataset) & (final.model == name)] for name in (claim.ours, claim.than)]
            if not all(len(side) for side in sides):
                continue
            p = math.nan
            if min(map(len, sides)) > 1:
                difference, low, high = welch(sides[0].top1, sides[1].top1)
                over = f"{len(sides[0])} and {len(sides[1])} seeds"
            else:
                both = [row for name in (claim.ours, claim.than) for row in answers.values()
                        if (row["set"], row["model"]) == (dataset, name)]  # fmt: skip
                if len(both) < 2:
                    continue
                hits = [right(row) for row in both]
                difference, low, high = paired(hits[0], hits[1])
                p = mcnemar_exact(int((hits[0] & ~hits[1]).sum()), int((hits[1] & ~hits[0]).sum()))
                over = "images"
            rows.append(
                {
                    "set": dataset,
                    "says": claim.says,
                    "ours": claim.ours,
                    "than": claim.than,
                    "quoted": claim.gain,
                    "source": claim.source,
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "over": over,
                    "p": p,
                    "epochs": int(sides[0].epochs.iloc[0] - sides[1].epochs.iloc[0]),
                    "verdict": "shows" if low > 0 else "the opposite shows" if high < 0 else "does not show",
                }
            )
    columns = ["set", "says", "ours", "than", "quoted", "source", "difference", "low", "high", "over", "p", "epochs"]
    return pd.DataFrame(rows, columns=[*columns, "verdict"])


# -- the page ---------------------------------------------------------------------------------------------------------

_SETS = {"fashion-mnist": "Fashion-MNIST", "elpv": "ELPV solar cells"}


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def _verdict_text(found: pd.DataFrame) -> str:
    said: dict[str, list[str]] = {"shows": [], "does not show": [], "the opposite shows": []}
    for row in found.to_dict("records"):
        more = f", with {row['epochs']} epochs more" if row["epochs"] else ""
        said[row["verdict"]].append(f"*{row['says'][0].lower()}{row['says'][1:]}* on {_SETS[row['set']]}{more}")
    shown, against, none = said["shows"], said["the opposite shows"], len(said["does not show"])
    agree = "agrees with the paper beyond its interval" if len(shown) == 1 else "agree with the paper beyond theirs"
    parts = [f"Of {len(found)} comparisons, {len(shown)} {agree}"]
    parts[0] += f" ({'; '.join(shown)})" if shown else ""
    verb = "contradicts" if len(against) == 1 else "contradict"
    parts.append(f"{len(against)} {verb} it" + (f" ({'; '.join(against)})" if against else ""))
    parts.append(f"and in {none} nothing shows: the difference is within what seeds or test images vary")
    return ", ".join(parts) + "."


def _verdict_table(found: pd.DataFrame) -> str:
    rows = []
    for row in found.to_dict("records"):
        more = f" ({row['epochs']:+d} epochs)" if row["epochs"] else ""
        p = "–" if math.isnan(row["p"]) else f"{row['p']:.2f}"
        rows.append([
            _SETS[row["set"]], row["says"], f"`{row['ours']}` – `{row['than']}`{more}",
            f"{row['quoted']:+.2f} ({row['source']})", f"{row['difference']:+.2f}",
            f"{row['low']:+.2f} … {row['high']:+.2f}", row["over"], p, f"**{row['verdict']}**",
        ])  # fmt: skip
    head = ["set", "the paper says", "compared here, 1/1", "quoted: points on ImageNet", "measured: points",
            "95 % interval", "over", "McNemar's p", "here it"]  # fmt: skip
    return _markdown(head, rows)


def _step_table(results: pd.DataFrame) -> str:
    """As the paper's Table 6: branches by training step, mean and deviation over seeds."""
    summary = summarise(results[results.set == "fashion-mnist"])
    paper = paper_table(6).set_index("setting")
    rows = []
    for setting, model in (
        ("Convolution", "reactnet_a"), ("P-L-L", "bcdnet_a_pll"), ("P-S-S", "bcdnet_a_pss"), ("P-S-L", "bcdnet_a")
    ):  # fmt: skip
        steps = {row["precision"]: row for row in summary[summary.model == model].to_dict("records")}
        quoted = paper.loc[setting]
        rows.append([
            setting, f"`{model}`", *(_mean(steps[p]) if p in steps else "–" for p in ("32/1", "1/1")),
            f"{quoted.step1_top1:.2f}", f"{quoted.step2_600k_top1:.2f}",
        ])  # fmt: skip
    head = ["branches", "network", "measured: after step 1, 32/1", "measured: after step 2, 1/1",
            "quoted: ImageNet, step 1", "quoted: ImageNet, step 2, 600k"]  # fmt: skip
    return _markdown(head, rows)


def _step_text(results: pd.DataFrame) -> str:
    summary = summarise(results[results.set == "fashion-mnist"])
    tried = summary[summary.model.isin(["bcdnet_a", "bcdnet_a_pss", "bcdnet_a_pll"]) & summary.difference.notna()]
    beyond = [
        f"`{row['model']}` at {row['precision']} ({row['difference']:+.2f})"
        for row in tried.to_dict("records")
        if row["low"] > 0 or row["high"] < 0
    ]
    return (
        f"Of {len(tried)} differences from the convolutions, {len(beyond)} are larger than their interval"
        f"{': ' + ', '.join(beyond) if beyond else ''}. The paper's step from 32/1 to 1/1 costs accuracy; here it "
        "gains some, and step 2 trains four times as long as step 1."
    )


def _mean(row: Mapping[Any, Any]) -> str:
    """ "92.02 ± 0.21 (seeds 0, 1, 2)"."""
    deviation = "" if math.isnan(row["sd"]) else f" ± {row['sd']:.2f}"
    return f"{row['mean']:.2f}{deviation} ({_seeds(row['seeds'])})"


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _error_table() -> str:
    """As the paper's Fig. 6: binarization error by branch, of the published BCDNet-A, and what it comes to."""
    rows, orders = [], []
    for name in ("fmnist_bcdnet_a", "elpv_bcdnet_a"):
        path = assets_dir() / "checkpoints" / f"{name}.safetensors"
        if not path.is_file():
            continue
        errors = binarization_error(bcdnet.load(path))
        for layer, part in errors.groupby("layer", sort=False):
            by_branch = dict(zip(part.branch, part.l1, strict=True))
            if not {"point", "short", "long"} <= set(by_branch):
                continue
            values = [f"{by_branch[branch]:.4f}" for branch in ("point", "short", "long")]
            orders.append(sorted(by_branch, key=by_branch.__getitem__))
            rows.append([f"`{name}`", str(layer), *values, " < ".join(orders[-1])])
    as_quoted = sum(order == ["long", "short", "point"] for order in orders)
    point = sum(order[0] == "point" for order in orders)
    verdict = (
        f"That order holds in {as_quoted} of the {len(orders)} MLPs here; in {point} of them the point branch has the "
        "*smallest* error, and the other two hardly differ."
    )
    return verdict + "\n\n" + _markdown(["network", "MLP", "point", "short", "long", "order"], rows)


def _run_table(summary: pd.DataFrame) -> str:
    twins = summary[summary.precision == "32/32"].set_index("set")["mean"]
    rows = []
    for row in summary.to_dict("records"):
        apart = gap = "–"
        if not math.isnan(row["difference"]):
            apart = f"{row['difference']:+.2f} ({row['low']:+.2f} … {row['high']:+.2f}, {row['over']})"
        if row["precision"] == "1/1" and row["set"] in twins:
            gap = f"{twins[row['set']] - row['mean']:.2f}"
        about = [_SETS[row["set"]], f"`{row['model']}`", row["precision"], str(row["epochs"])]
        rows.append([*about, _mean(row), apart, gap])
    head = ["set", "network", "weights/activations", "epochs", "top-1 %, mean ± deviation",
            "from `reactnet_a`: points (95 % interval, over)", "below the twin: points"]  # fmt: skip
    return _markdown(head, rows)


def _defect_table(answers: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [[f"`{name}`", f"{row['top1']:.2f}", f"{row['f1']:.1f}", f"{row['auc']:.1f}"]
            for name, row in answers.items() if row["f1"] is not None]  # fmt: skip
    return _markdown(["network", "top-1 %", "F1 %, defective", "area under ROC %"], rows)


def tables(results: pd.DataFrame, answers: Mapping[str, Mapping[str, Any]]) -> str:
    """What stands between the marks of ``docs/results.md``."""
    found = verdicts(results, answers)
    return "\n\n".join([
        "## Does the paper's ordering show?", _verdict_text(found), _verdict_table(found),
        "## Step by step (as Table 6)", _step_text(results), _step_table(results),
        "## Binarization error by branch (as Fig. 6)",
        "Mean |W − α sign W| (Eq. 23). The paper reports an order of the branches in almost every block; its formula "
        "is missing from the text at hand, and its sentence on the distance of exchange reads as long < short < point.",
        _error_table(),
        "## Solar cells",
        "Binary networks by the packed engine, the twin in float; in float the last digit of the area may differ.",
        _defect_table(answers),
        "## Every run", _run_table(summarise(results)),
    ])  # fmt: skip


def read_answers() -> dict[str, Any]:
    """What :func:`main` kept of the published networks' answers, see :func:`answer`."""
    answers: dict[str, Any] = json.loads((assets_dir() / "runs" / _ANSWERS).read_text(encoding="utf-8"))
    return answers


def main() -> None:
    """Ask the published networks, and write the page's tables anew."""
    write_atomically(assets_dir() / "runs" / _ANSWERS, (json.dumps(answer(), indent=1) + "\n").encode())
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    after = rest.split(END)[1]
    text = f"{before}{START}\n\n{tables(read_results(), read_answers())}\n\n{END}{after}"
    write_atomically(PAGE, text.encode())


if __name__ == "__main__":
    main()
