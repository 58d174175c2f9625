"""The result files as a figure and as the tables of docs/benchmarks.md.

python -m benchmarks.report [--results FOLDER] [--docs FOLDER]
"""

import argparse
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from analysis.figures.palette import BLUE, GREY, INK, ORANGE, SKY, VERMILION
from bcdnet.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    "bcdnet_a": "BCDNet-A",
    "bcdnet_b": "BCDNet-B",
    "reactnet_a": "ReActNet-A",
    "bcdnet_a_18": "BCDNet-A-18",
    "resnet_18": "ResNet-18",
    "mobilenet_v2": "MobileNetV2",
    "engine": "packed engine",
    "torch": "torch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
FORMATS = {"packed": BLUE, "float": GREY, "fp32": ORANGE, "int8": VERMILION}
ISAS = {"avx512": BLUE, "avx2": SKY, "neon": SKY, "portable": GREY}

Rows = Sequence[Mapping[str, Any]]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def conditions(document: Mapping[str, Any]) -> str:
    """One sentence on what was measured on."""
    machine, versions = document["machine"], document["machine"]["versions"]
    named = ", ".join(f"{TITLES.get(name, name)} {version}" for name, version in versions.items())
    load = f", load average {machine['load'][0]} at the start" if machine["load"] else ""
    kind = " A quick run, not the full study." if document.get("quick") else ""
    return f"{machine['cpu']}, {machine['cores']} cores{load}; {named}.{kind}"


def best_row(run: Mapping[str, Any], network: str, format_: str) -> Mapping[str, Any] | None:
    """The fastest runtime's row, or None where there is none."""
    rows = [row for row in run["rows"] if (row["network"], row["format"]) == (network, format_)]
    return min(rows, key=lambda row: row["median_ms"], default=None)


def runtime_title(name: str) -> str:
    """Such as "ONNX Runtime", or "packed engine on avx2"."""
    first, *rest = name.split()
    return " ".join([TITLES[first], *rest])


def network_tables(document: Mapping[str, Any]) -> dict[str, str]:
    """Blocks "networks", "ratios", "breakdown" and "conditions-networks"."""
    runs = document["runs"]
    head = ["network", "what", *(f"batch {r['batch']}, {r['threads']} thread{'s' * (r['threads'] > 1)}" for r in runs)]
    kinds = dict.fromkeys((row["network"], row["format"], row["runtime"]) for run in runs for row in run["rows"])
    body = []
    for network, format_, runtime in kinds:
        cells = [TITLES[network], ", ".join([format_] * (format_ != "packed") + [runtime_title(runtime)])]
        for run in runs:
            found = [r for r in run["rows"] if (r["network"], r["format"], r["runtime"]) == (network, format_, runtime)]
            cells += [f"{r['median_ms']:.2f} ({r['p10_ms']:.2f} – {r['p90_ms']:.2f})" for r in found] or ["–"]
        body.append(cells)
    names = dict.fromkeys(name for run in runs for name in run["ratios"])
    ratios = []
    for name in names:
        first, *rest = name.split()
        words = [TITLES.get(first, first), *(TITLES.get(word, word) for word in rest)]
        cells = [" ".join(words).replace("against float", "against itself in float")]
        for run in runs:
            ratio = run["ratios"].get(name)
            cells.append(f"{ratio['ratio']:.2f} × ({runtime_title(ratio['fastest'])})" if ratio else "–")
        ratios.append(cells)
    blocks = {
        "conditions-networks": f"{conditions(document)} Instruction set of the engine: {document['isa']}.",
        "networks": table(head, body),
        "ratios": table(["how many times faster", *head[2:]], ratios),
    }
    ceilings = document["ceilings"]
    parts = [run["breakdown"] for run in runs if "breakdown" in run]
    lines = []
    for kind in parts[0]["kinds"]:
        cells = [kind]
        for part in parts:
            row = part["kinds"][kind]
            cells += [f"{row['ms']:.2f}", f"{row['floor_ms']:.2f}"]
        lines.append(cells)
    lines.append(["**whole**", *(f"**{part[key]:.2f}**" for part in parts for key in ("whole_ms", "floor_ms"))])
    columns = [f"{what}, {p['threads']} thread{'s' * (p['threads'] > 1)}" for p in parts for what in ("ms", "floor ms")]
    blocks["breakdown"] = (
        f"Ceilings of one core: {ceilings['binary_gmacs']:.0f} billion binary and {ceilings['float32_gmacs']:.0f} "
        "billion float32 multiply-accumulates a second.\n\n" + table(["layers", *columns], lines)
    )
    return blocks


def layer_tables(document: Mapping[str, Any]) -> dict[str, str]:
    """Blocks "layers", "sweeps" and "conditions-layers"."""
    columns = {
        "kernel": "kernel",
        "op": "with packing",
        "unit": "unit in the engine",
        "openvino_kernel": "OpenVINO kernel",
        "openvino_op": "OpenVINO with packing",
    }
    parts = []
    for isa, found in document["isas"].items():
        body = []
        for row in found["layers"]:
            rate = row["gmacs"]
            body.append([product_name(row["shape"]), *(f"{rate[key]:.0f}" for key in columns if key in rate)])
        there = [title for key, title in columns.items() if key in found["layers"][0]["gmacs"]]
        load = f", load average {found['load'][0]}" if found["load"] else ""
        text = f"**{isa}**{load}\n\n" + table(["product", *there], body)
        if "geometric_mean_ratio" in found:
            mean = found["geometric_mean_ratio"]
            text += (
                f"\n\nGeometric mean of the ratio to OpenVINO: {mean['kernel']:.2f} for the kernels alone, "
                f"{mean['op']:.2f} with packing. Beside OpenVINO's operator as a network calls it, packing included: "
                f"{mean['bits']:.2f} for our kernel, which gets its bits from the layer before, and "
                f"{mean['unit']:.2f} for the engine's whole unit."
            )
        parts.append(text)
    blocks = {"conditions-layers": conditions(document), "layers": "\n\n".join(parts)}
    lines = []
    swept = [key for key in columns if key != "unit"]
    for found in document["isas"].values():
        for what, rows in found.get("sweeps", {}).items():
            for row in rows:
                shape, rate = row["shape"], row["gmacs"]
                value = {"channels": shape["inputs"], "map": f"{shape['height']}×{shape['width']}"}.get(what)
                cells = [what, str(row[what] if value is None else value), f"{row['kernel_ms']:.3f}"]
                lines.append([*cells, *(f"{rate[key]:.0f}" if key in rate else "–" for key in swept)])
    head = ["what", "value", "kernel, ms", *(columns[key] for key in swept)]
    blocks["sweeps"] = table(head, lines) if lines else "Not in a quick run."
    return blocks


def agreement_tables(document: Mapping[str, Any]) -> dict[str, str]:
    """Blocks "agreement" and "conditions-agreement"."""
    body = []
    for row in document["networks"]:
        farthest = f"{row['farthest']:.1e}" if row["differing"] else "–"
        counts = (f"{row[key]:,}" for key in ("images", "top1_equal_unrounded", "bits", "differing"))
        body.append([f"`{row['name']}`", *counts, farthest, f"{row['median_logits']:.1e}"])
    head = ["network", "images", "same class", "bits compared", "that differ", "farthest from its threshold"]
    machine = document["machine"]
    conditions_ = f"{machine['cpu']}; instruction set: {document['networks'][0]['isa']}."
    return {"agreement": table([*head, "median difference of logits"], body), "conditions-agreement": conditions_}


def training_tables(document: Mapping[str, Any]) -> dict[str, str]:
    """Blocks "training", "training-ratios" and "conditions-training"."""
    seconds, memory = document["seconds"], document["memory"]
    body = [
        [kind, _with_range(found, 1, "{:.2f}"), _with_range(memory[kind], 2**20, "{:,.0f}")]
        for kind, found in seconds.items()
    ]
    ratios = [[name, f"{ratio:.2f}"] for name, ratio in document["ratios"].items()]
    rounds = len(next(iter(seconds.values()))["all"])
    conditions_ = f"{conditions(document)} {document['threads']} threads, batch {document['batch']}, {rounds} rounds."
    return {
        "training": table(["network", "s a step (quickest – slowest)", "MiB for a step (least – most)"], body),
        "training-ratios": table(["ratio", ""], ratios),
        "conditions-training": conditions_,
    }


def dashboard_tables(document: Mapping[str, Any]) -> dict[str, str]:
    """Blocks "dashboard" and "conditions-dashboard"."""
    kinds = {"first_paint": "first paint", "first_visit": "first visit", "next_visit": "next visit", "click": "a click",
             "tab": "a tab"}  # fmt: skip
    body = []
    for name, found in document["pages"].items():
        cells = (f"{found[kind]['median']:.2f} ({found[kind]['p95']:.2f})" if kind in found else "–" for kind in kinds)
        on = ", ".join(found[f"{kind}_on"] for kind in ("click", "tab") if f"{kind}_on" in found) or "–"
        body.append([name, *cells, on.replace("|", r"\|")])
    rounds = len(next(iter(document["pages"].values()))["first_paint"]["all"])
    unseen = sum(
        found[kind]["all"].count(None) for found in document["pages"].values() for kind in kinds if kind in found
    )
    left_out = f" {unseen} left out, which ran nothing, or too shortly to be seen." if unseen else ""
    return {
        "dashboard": table(["page", *kinds.values(), "clicked on"], body),
        "conditions-dashboard": f"{conditions(document)} {rounds} rounds, two clicks on each thing in each.{left_out}",
    }


def _with_range(found: Mapping[str, Any], unit: float, form: str) -> str:
    median, least, most = (
        form.format(value / unit) for value in (found["median"], min(found["all"]), max(found["all"]))
    )
    return f"{median} ({least} – {most})"


def product_name(shape: Mapping[str, Any]) -> str:
    """Such as "3×3 512→512, 14×14" and "/2" for stride 2; "3 branches" for an MLP."""
    name = f"{shape['kernel']}×{shape['kernel']} {shape['inputs']}→{shape['outputs']}"
    name += "/2" * (shape["stride"] == 2) + f", {shape['height']}×{shape['width']}"
    return name + (f", {shape['branches']} branches" if shape["branches"] > 1 else "")


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` for every block; each must be there once."""
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda m, block=block: f"{m[1]}{block}\n{m[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"the page has {count} places for {name!r}; it needs one.")
    return text


def draw(networks: Mapping[str, Any], layers: Mapping[str, Any]) -> bytes:
    """The figure as SVG."""
    with matplotlib.rc_context(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "bcdnet"}
    ):
        fig, axes = plt.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
        _draw_networks(axes[0, 0], networks)
        _draw_breakdown(axes[0, 1], networks)
        _draw_layers(axes[1, 0], layers)
        _draw_sweeps(axes[1, 1], layers)
        buffer = io.BytesIO()
        fig.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(fig)
    return buffer.getvalue()


def _draw_networks(ax: Axes, document: Mapping[str, Any]) -> None:
    run = [r for r in document["runs"] if r["batch"] == 1][-1]
    bars = []
    for network, format_ in dict.fromkeys((r["network"], r["format"]) for r in run["rows"]):
        row = best_row(run, network, format_)
        assert row is not None
        bars.append((f"{TITLES[network]} {format_}", row["median_ms"], format_, runtime_title(row["runtime"])))
    bars.sort(key=lambda bar: -bar[1])
    for place, (_, ms, format_, runtime) in enumerate(bars):
        ax.barh(place, ms, color=FORMATS[format_])
        ax.text(ms * 1.05, place, f"{ms:.1f} ({runtime})", va="center", fontsize=8)
    ax.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    ax.set_xscale("log")
    ax.set_xlim(bars[-1][1] / 2, bars[0][1] * 4)
    ax.set_xlabel("milliseconds for one image (log scale), the fastest runtime of each")
    ax.set_title(f"Networks at 224 pixels, batch 1, {run['threads']} threads", loc="left")


def _draw_breakdown(ax: Axes, document: Mapping[str, Any]) -> None:
    part = [run["breakdown"] for run in document["runs"] if "breakdown" in run][-1]
    kinds = list(part["kinds"])
    for place, kind in enumerate(kinds):
        row = part["kinds"][kind]
        ax.bar(place, row["ms"], color=SKY, label="measured" if not place else None)
        ax.bar(
            place, row["floor_ms"], color=BLUE, width=0.4, label="at the ceiling of the cores" if not place else None
        )
    ax.set_xticks(range(len(kinds)), [kind.replace(" ", "\n", 1) for kind in kinds])
    ax.set_ylabel("milliseconds")
    ax.legend(frameon=False)
    title = f"BCDNet-A packed: {part['whole_ms']:.1f} ms, floor {part['floor_ms']:.1f} ms, {part['threads']} threads"
    ax.set_title(title, loc="left")


def _draw_layers(ax: Axes, document: Mapping[str, Any]) -> None:
    names: list[str] = []
    for isa, found in document["isas"].items():
        names = [product_name(row["shape"]) for row in found["layers"]]
        places, color = range(len(names)), ISAS.get(isa, INK)
        ax.plot(places, [r["gmacs"]["kernel"] for r in found["layers"]], "o-", color=color, label=isa)
        if "geometric_mean_ratio" in found:
            theirs = [row["gmacs"]["openvino_kernel"] for row in found["layers"]]
            ax.plot(places, theirs, "x:", color=color, label=f"OpenVINO at {isa}")
    ax.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("billion MACs a second")
    ax.legend(frameon=False, ncols=2, fontsize=8)
    ax.set_title("Kernels on the products of BCDNet-A, one core", loc="left")


def _draw_sweeps(ax: Axes, document: Mapping[str, Any]) -> None:
    found = next(iter(document["isas"].values()))
    keys = {"channels": "inputs", "map": "height"}
    for (what, rows), color in zip(found.get("sweeps", {}).items(), (BLUE, ORANGE, VERMILION, GREY), strict=False):
        x = [row["shape"][keys[what]] if what in keys else row[what] for row in rows]
        ax.plot(x, [row["kernel_ms"] for row in rows], "o-", color=color, label=what)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set_xlabel("channels, side of the map, images, or threads (log scale)")
    ax.set_ylabel("milliseconds (log scale)")
    if found.get("sweeps"):
        ax.legend(frameon=False)
    ax.set_title("One thing changed from 3×3 512→512 at 14×14", loc="left")


def main() -> None:
    """Write the figure and renew the page."""
    parser = argparse.ArgumentParser(description="Draw the results and write the tables of docs/benchmarks.md.")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of JSON files")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of benchmarks.md")
    arguments = parser.parse_args()
    networks, layers, agreement, training = (
        json.loads((arguments.results / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("networks", "layers", "agreement", "training")
    )
    page = arguments.docs / "benchmarks.md"
    blocks = network_tables(networks) | layer_tables(layers) | agreement_tables(agreement)
    blocks |= training_tables(training)
    if (times := arguments.results / "dashboard.json").is_file():  # a machine without Chromium has none
        blocks |= dashboard_tables(json.loads(times.read_text(encoding="utf-8")))
    text = fill(page.read_text(encoding="utf-8"), blocks)
    write_atomically(arguments.docs / "benchmarks.svg", draw(networks, layers))
    write_atomically(page, text.encode())


if __name__ == "__main__":
    main()
