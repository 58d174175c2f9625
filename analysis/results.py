"""What the zoo's runs came to: accuracy by recipe and step over seeds, and the gain over convolutions alone.

``python -m analysis.results`` writes the table of ``docs/results.md`` anew from the cards in ``assets/runs``.
"""

import json
import math
from pathlib import Path

import pandas as pd
from scipy import stats

from bcdnet.files import assets_dir, write_atomically

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- results -->", "<!-- /results -->"


def read_results(folder: Path | None = None) -> pd.DataFrame:
    """Measured accuracy of every step of every run that is kept.

    Args:
        folder: of the runs' folders; the shipped one if None.

    Returns:
        Columns ``set`` (data set), ``model`` (recipe without its set), ``precision``, ``seed``, ``top1`` in percent and
        ``n`` test images; sorted. Empty if there is none.
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
                "top1": card["metrics"]["top1"],
                "n": card["metrics"]["n"],
            }
        )
    columns = ["set", "model", "precision", "seed", "top1", "n"]
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:4], ignore_index=True)


def summarise(results: pd.DataFrame, baseline: str = "reactnet_a", level: float = 0.95) -> pd.DataFrame:
    """Mean and standard deviation over seeds, and the difference from a baseline of the same set and precision.

    The interval of the difference is Welch's over seeds where both have at least two; else the one that the test images
    allow, of two independent proportions (Wald), which says nothing of seeds.

    Args:
        results: from :func:`read_results`.
        baseline: model to compare with.
        level: of the interval.

    Returns:
        Columns ``set``, ``model``, ``precision``, ``seeds``, ``mean``, ``sd`` (NaN for one seed), ``difference``,
        ``low``, ``high`` (percentage points; NaN without a baseline, and for it) and ``over`` ("seeds" or "images").
    """
    rows = []
    for (dataset, model, precision), runs in results.groupby(["set", "model", "precision"], sort=False):
        row = {"set": dataset, "model": model, "precision": precision, "seeds": len(runs)}
        row |= {"mean": runs.top1.mean(), "sd": runs.top1.std(ddof=1)}
        same = (results.set == dataset) & (results.precision == precision) & (results.model == baseline)
        other = results[same]
        if len(other) and model != baseline:
            row |= _difference(runs, other, level)
        rows.append(row)
    columns = ["set", "model", "precision", "seeds", "mean", "sd", "difference", "low", "high", "over"]
    return pd.DataFrame(rows, columns=columns)


def _difference(ours: pd.DataFrame, theirs: pd.DataFrame, level: float) -> dict[str, float | str]:
    difference = ours.top1.mean() - theirs.top1.mean()
    if min(len(ours), len(theirs)) > 1:
        parts = [runs.top1.var(ddof=1) / len(runs) for runs in (ours, theirs)]
        error = math.sqrt(sum(parts))
        freedom = [part**2 / (len(runs) - 1) for part, runs in zip(parts, (ours, theirs), strict=True)]
        half = float(stats.t.ppf((1 + level) / 2, sum(parts) ** 2 / sum(freedom))) * error if error else 0.0
        over = "seeds"
    else:
        shares = [(runs.top1.iloc[0] / 100, runs.n.iloc[0]) for runs in (ours, theirs)]
        half = 100 * float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(sum(p * (1 - p) / n for p, n in shares))
        over = "images"
    return {"difference": difference, "low": difference - half, "high": difference + half, "over": over}


def table(summary: pd.DataFrame) -> str:
    """The summary as a table of Markdown."""
    lines = [
        "| set | network | weights/activations | seeds | top-1 %, mean | standard deviation | "
        "from ReActNet-A | 95 % interval | over |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in summary.to_dict("records"):
        sd = "–" if math.isnan(row["sd"]) else f"{row['sd']:.2f}"
        gain, interval, over = "–", "–", "–"
        if not math.isnan(row["difference"]):
            gain, interval = f"{row['difference']:+.2f}", f"{row['low']:+.2f} … {row['high']:+.2f}"
            over = row["over"]
        cells = [row["set"], f"`{row['model']}`", row["precision"], str(row["seeds"]), f"{row['mean']:.2f}", sd]
        lines.append("| " + " | ".join([*cells, gain, interval, over]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write the page's table anew."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    after = rest.split(END)[1]
    text = f"{before}{START}\n{table(summarise(read_results()))}\n{END}{after}"
    write_atomically(PAGE, text.encode())


if __name__ == "__main__":
    main()
