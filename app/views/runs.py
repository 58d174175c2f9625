"""Training runs: loss, accuracy, flips and binarization error over training, also while it goes on."""

import datetime
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from analysis import runs as logs
from analysis.figures import runs as figures
from analysis.runs import Run
from app import cache, runs, state
from app.widgets import figure, tabs, words

#: Seconds between two looks at runs that are training.
_EVERY = 5
#: Runs that a first visit shows.
_FIRST = 3
#: Of a chart, in pixels.
_WIDTH = 450
#: States of runs whose files may change at any time.
_LIVE = ("training", "silent")

#: Words for strokes; an unknown precision gets the last.
_STROKES = {"dot": "dotted", "solid": "solid", "dash": "dashed", "dashdot": "dash-dotted"}


@dataclass(frozen=True)
class _Curve:
    """What one chart shows: a column of the logs, another as a thin line, and how values are written."""

    column: str
    title: str
    thin: str | None = None
    form: str = ".4g"
    unit: str = ""
    top: float | None = None


#: Tab -> its curves; only the tab that is open is drawn. The last tells kinds of weights apart.
_TABS: dict[str, tuple[_Curve, ...]] = {
    "Loss and accuracy": (
        _Curve("train_loss", "Training loss"),
        _Curve("test_top1", "Top-1 on the test set (%)", "train_top1", ".2f", " %"),
    ),
    "Flips and binarization error": (
        _Curve("flips", "Binary weights flipped since the row before", form=".2%"),
        _Curve("error", "Binarization error, mean |W − α sign W|"),
    ),
    "By branch and kind of binary weight": (),
}


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _span(seconds: float) -> str:
    """ "12 s", "4 min", "3 h 20 min", "2 d 5 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _choose(own: Mapping[str, Run], shipped: Mapping[str, Run]) -> list[str]:
    """The runs to draw; at first those that are training, the reader's own, and those of the sidebar's models."""
    offered = {**own, **shipped}
    now = _now()
    chosen, _ = st.session_state["chosen"]
    sidebar = () if chosen is None else (chosen.id, *st.session_state["beside"])

    def rank(key: str) -> tuple[bool, bool, bool]:
        return offered[key].state(now) != "training", key not in own, key not in sidebar

    state.several("runs", list(offered), sorted(offered, key=rank)[:_FIRST], figures.MOST)
    return st.multiselect(
        "Runs",
        list(offered),
        format_func=lambda key: offered[key].name,
        key="runs",
        max_selections=figures.MOST,
        help=f"Up to {figures.MOST} runs: the models shipped here, and those of the folder.",
    )


def _choose_anew() -> None:
    """Another folder is looked into for what lies there."""
    state.forget("runs")


def _progress(chosen: Sequence[Run]) -> None:
    """How far those have come in their step that are training, and which of them fell silent."""
    now = _now()
    for run in chosen:
        report, how = run.progress, run.state(now)
        if report is None or how not in _LIVE:
            continue
        step = f"step {report.step} of {report.steps}"
        where = f"iteration {report.iteration:,} of {report.iterations:,}"
        ago = f"last written {_span(run.silent_for(now))} ago"
        if how == "silent":
            st.warning(
                f"{run.name} is silent: {step}, {where}, {ago}. It was stopped, or waits for something; "
                f"`bcdnet train … --resume {run.source.parent}` goes on with a run that was stopped.",
                icon=":material/hourglass_disabled:",
            )
            continue
        if report.eta_s is not None:
            where += f", about {_span(max(0.0, report.eta_s - run.silent_for(now)))} left"
        done = report.iteration / max(1, report.iterations)
        st.progress(min(1.0, max(0.0, done)), f"**{run.name}**, {step}: {where} · {ago}")


def _legend(chosen: Sequence[Run], colors: Mapping[str, str]) -> None:
    """One legend for all charts: a name in words behind a stroke of its colour, and what the strokes mean."""
    strokes = "".join(
        f'<span role="listitem" style="white-space:nowrap"><span aria-hidden="true" style="display:inline-block;'
        f'width:1.6em;height:0.25em;margin-right:0.5em;vertical-align:middle;background:{colors[run.name]}"></span>'
        f"{html.escape(run.name)}</span>"
        for run in chosen
    )
    st.html(f'<div role="list" style="display:flex;flex-wrap:wrap;gap:0.3em 1.5em;font-size:0.9rem">{strokes}</div>')
    shown = {precision for run in chosen for precision in run.log.precision.dropna()}
    told = [f"{_STROKES[figures.stroke(precision)]} {precision}" for precision in sorted(shown, reverse=True)]
    st.caption(f"Strokes tell the bits of weights/activations in a step: {', '.join(told)}.")


def _draw(
    curve: _Curve, data: pd.DataFrame, chosen: Sequence[Run], colors: Mapping[str, str], x: str, lacking: str
) -> None:
    """A chart with what it shows in words, and the runs that it lacks, with the reason."""
    thin = None if curve.thin is None else logs.curves(chosen, curve.thin).dropna(subset=x)
    last = data.groupby("run", sort=False).value.last()
    ends = ", ".join(f"{name} {value:{curve.form}}{curve.unit}" for name, value in last.items())
    form: dict[str, Any] = {"x": x, "form": curve.form, "unit": curve.unit, "top": curve.top}
    figure.show(
        figures.run_curves(data, curve.title, colors, thin=thin, **form),
        curve.column,
        f"{curve.title} over {x}; at the end: {ends}",
        data,
        _reading(chosen)
        + f"data = runs.curves(chosen, {curve.column!r}).dropna(subset={x!r})\n"
        + f"thin = {None if curve.thin is None else f'runs.curves(chosen, {curve.thin!r}).dropna(subset={x!r})'}\n"
        + f"figure = run_curves(data, {curve.title!r}, {dict(colors)!r}, thin=thin, **{form!r})\n",
        key=f"run_curve_{curve.column}",
    )
    if thin is not None and len(thin):
        st.caption("Thin, without dots: on the training images, as they were shown to the network.")
    if missing := [run.name for run in chosen if run.name not in last]:
        st.caption(f":material/info: No line for {', '.join(missing)}: {lacking}.")


def _reading(chosen: Sequence[Run]) -> str:
    """Python that reads the runs."""
    files = {run.name: logs.source_name(run) for run in chosen}
    return (
        "from dataclasses import replace\nfrom pathlib import Path\n\n"
        "from analysis import runs\nfrom analysis.figures.runs import run_curves\n\n"
        f"files = {files!r}\n"
        "chosen = [replace(runs.read_run(Path(path)), name=name) for name, path in files.items()]\n"
    )


def _draw_all(
    curves: Sequence[_Curve],
    chosen: Sequence[Run],
    colors: Mapping[str, str],
    x: str,
    lacking: str = "not in the log",
) -> list[_Curve]:
    """Charts beside each other, as many as fit; those that no log has anything of are left out and returned."""
    row = st.container(horizontal=True, gap="medium")
    absent = []
    for curve in curves:
        data = logs.curves(chosen, curve.column).dropna(subset=x)
        if len(data):
            with row.container(width=_WIDTH):
                _draw(curve, data, chosen, colors, x, lacking)
        else:
            absent.append(curve)
    return absent


def _over(chosen: Sequence[Run]) -> str:
    """What the curves run over; the reader chooses where the logs leave a choice."""
    axes = [x for x in ("epochs", "iterations") if any(run.log[x].notna().any() for run in chosen)]
    if len(axes) < 2:
        return axes[0] if axes else "epochs"
    x = state.valid("runs_over", axes, axes[0])
    st.segmented_control(
        "Over",
        axes,
        required=True,
        key="runs_over",
        on_change=state.remember,
        help="Epochs, passes over the training data, or iterations, updates of the weights; counted over all steps.",
    )
    return x


def _draw_tab(curves: Sequence[_Curve], chosen: Sequence[Run], colors: Mapping[str, str], x: str) -> None:
    if curves:
        if absent := _draw_all(curves, chosen, colors, x):
            titles = " and ".join(f"*{curve.title}*" for curve in absent)
            st.caption(f":material/info: Not drawn: {titles}. No log of the chosen runs has it; older logs lack some.")
    elif kinds := logs.kinds(chosen):
        _draw_kinds(chosen, kinds, colors, x)
    else:
        st.info("No log of the chosen runs tells the kinds of binary weights apart; older logs do not.")


def _draw_kinds(chosen: Sequence[Run], kinds: Sequence[str], colors: Mapping[str, str], x: str) -> None:
    measure = state.valid("runs_measure", ["error", "flips"], "error")
    st.segmented_control(
        "Measure", ["error", "flips"], required=True, key="runs_measure", on_change=state.remember,
        format_func=lambda name: {"error": "binarization error", "flips": "flips"}[name],
        help="The mean of |W − α sign W| (Eq. 23), or the share of weights whose sign changed since the row before.",
    )  # fmt: skip
    columns = {kind: f"{measure}_{kind}" for kind in kinds}
    top = float(max((logs.curves(chosen, column).value.max() for column in columns.values()), default=0))
    form = ".2%" if measure == "flips" else ".4g"
    curves = [_Curve(column, logs.KINDS.get(kind, kind), form=form, top=top) for kind, column in columns.items()]
    able = [run for run in chosen if logs.kinds([run])]
    _draw_all(curves, able, colors, x, lacking="the network has no such weights")
    without = [run.name for run in chosen if run not in able]
    missing = f" The log of {', '.join(without)} does not tell kinds apart." if without else ""
    st.caption(f"All on one scale, so that the kinds compare.{missing}")


def _table(chosen: Sequence[Run]) -> None:
    now = _now()
    words.badge("measured", "the last row of each log")
    table = logs.last_rows(chosen)
    table = table.assign(
        state=[run.state(now) for run in chosen],
        time=table.seconds.map(_span, na_action="ignore"),
    )
    shown = ["run", "state", "step", "precision", "epochs", "iterations", "train_loss", "train_top1", "last_top1"]
    shown += ["best_top1", "best_epochs", "flips", "error", "time", "lr"]
    number = st.column_config.NumberColumn
    st.dataframe(
        table[[name for name in shown if table[name].notna().any()]],
        hide_index=True,
        column_config={
            "run": st.column_config.TextColumn("Run", pinned=True),
            "state": st.column_config.TextColumn("State", help="What the files in its folder say."),
            "step": number("Step", format="%d"),
            "precision": st.column_config.TextColumn("W/A", help="Bits of weights and activations in that step."),
            "epochs": number("Epochs", format="%.4g", help="Over all steps."),
            "iterations": number("Iterations", format="localized", help="Over all steps."),
            "train_loss": number("Loss", format="%.4f", help="On the training images."),
            "train_top1": number("Train top-1", format="%.2f %%", help="On the training images, as they were shown."),
            "last_top1": number("Test top-1", format="%.2f %%", help="The last one that was logged."),
            "best_top1": number(
                "Best test", format="%.2f %%", help="Highest of its last step; nothing was chosen by it."
            ),
            "best_epochs": number("at epoch", format="%.4g", help="Over all steps."),
            "flips": number("Flips", format="percent", help="Share of the binary weights, since the row before."),
            "error": number("Error", format="%.4f", help="Mean |W − α sign W| over all binary weights, Eq. 23."),
            "lr": number("Learning rate", format="scientific"),
            "time": st.column_config.TextColumn("Time", help="The log's seconds, added up."),
        },
        placeholder="–",
        alt="The last row of the log of every run that was chosen, with its last and best test accuracy",
    )
    st.caption(f"Read from {', '.join(f'`{logs.source_name(run)}`' for run in chosen)}.")
    st.caption(
        "Test accuracy is logged and never selected on: what a run leaves behind is its last state, so the last value "
        "is its result. The best one is the luckiest of many, and looks better than the network is."
    )
    st.download_button(
        "Download all rows (CSV)",
        logs.all_rows(chosen).to_csv(index=False),
        "runs.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        help="The logs of the chosen runs below each other, with the name of each.",
    )


st.markdown(
    "What happened while networks were trained, row by row of their logs: those of the models shipped here, and **your "
    "own runs**, also while they train."
)
state.text("folder")
with st.container(horizontal=True, vertical_alignment="bottom"):
    typed = st.text_input(
        "Folder of runs",
        key="folder",
        placeholder=runs.default_folder(),
        on_change=_choose_anew,
        help="A folder of training runs, or a single run, on the machine that serves this page. Left empty: "
        "`$BCDNET_RUNS`, else `runs`, where `bcdnet train` puts them.",
    )
    st.button("Read again", icon=":material/refresh:", help="Look for new runs and new rows.")
folder = typed or runs.default_folder()
own, own_problems = runs.own(folder)
shipped, problems = runs.shipped(cache.catalogue()[0])
offered = {**own, **shipped}
if typed and not own:
    why = "a run is a folder with a `log.csv`" if runs.is_folder(typed) else "there is none of that name on this server"
    st.caption(f":material/folder_off: No training runs were found in that folder: {why}.")
for problem in [*own_problems, *problems]:
    st.warning(problem, icon=":material/report:")
keys = _choose(own, shipped)
chosen = [offered[key] for key in keys]


def _drawn(runs: Sequence[Run]) -> list[tuple[int, bool]]:
    """What must be alike for the drawn page to be up to date."""
    now = _now()
    return [(len(run.log), run.state(now) in _LIVE) for run in runs]


def _follow() -> None:
    """How far the runs have come; the whole page is drawn anew when there is more to draw."""
    found = {**runs.own(folder)[0], **shipped}
    read = [found[key] for key in keys if key in found]
    if _drawn(read) != _drawn(chosen):
        st.rerun()
    _progress(read)


if any(live for _, live in _drawn(chosen)):
    again = st.toggle(
        "Follow", value=True, key="runs_follow", help=f"Read the files again every {_EVERY} seconds while a run trains."
    )
    st.fragment(run_every=_EVERY if again else None)(_follow)()
drawn = [run for run in chosen if len(run.log)]
if waiting := [run.name for run in chosen if not len(run.log)]:
    st.caption(f":material/info: {', '.join(waiting)}: nothing in the log so far.")
if not offered:
    st.info(
        "No training runs were found. `bcdnet train recipes/fmnist_bcdnet_a.yaml` starts one in the folder `runs`.",
        icon=":material/folder_off:",
    )
elif not keys:
    st.info("Choose at least one run.")


@st.fragment
def _curves() -> None:
    by_key = figures.run_colors(keys, st.session_state.get("run_colors"))
    st.session_state["run_colors"] = by_key
    colors = {offered[key].name: color for key, color in by_key.items()}
    x = _over(drawn)
    words.badge("measured", f"the logs of {len(drawn)} run{'s' if len(drawn) > 1 else ''}, named above the curves")
    _legend(drawn, colors)
    tabs.show("runs_tab", {name: partial(_draw_tab, curves, drawn, colors, x) for name, curves in _TABS.items()})
    state.publish()


if drawn:
    _curves()
    st.markdown("**Where each log ends**")
    _table(drawn)

words.misleads(
    "The training loss holds label smoothing and the teacher's part, if there is one, so losses of other recipes do "
    "not compare. A test accuracy does, on one data set.",
    "Training accuracy is taken from batches while the weights change, and with augmentation: it may lie below the "
    "test accuracy of the same epoch.",
    "Flips are counted from row to row. A log with a row an epoch shows more of them than one with a row every hundred "
    "iterations, and a weight that flipped there and back shows none.",
    "The error grows with the weights' size, which batch normalisation undoes. A falling error may be nothing but "
    "weights that shrink: the page *Binarization error* has the relative one.",
    "One run is one seed. How far two seeds of a recipe lie apart is the least difference that means anything.",
    "At 32/1 and 32/32 weights are real: flips and error tell what binarizing them at that moment would do.",
)
