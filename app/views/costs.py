"""OPs trade-offs: accuracy against cost, published, measured, and of a network the reader designs."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from analysis import tradeoffs
from analysis.figures import tradeoffs as figures
from app import cache, engines, jobs, state
from app.widgets import figure, selection, tabs, words

_AXES = {
    "ops_full": "OPs, full",
    "ops_conv_fc": "OPs, conv+fc",
    "bops": "BOPs",
    "flops_full": "FLOPs, full",
    "flops_conv_fc": "FLOPs, conv+fc",
    "params": "Parameters",
    "megabytes": "Memory (MB)",
    "packed_mb": "Packed file (MB)",
    "checkpoint_mb": "Checkpoint (MB)",
    "latency_ms": "Time here (ms)",
    "benchmark_ms": "Time, benchmark (ms)",
}
_SETS = {
    "ImageNet-1K": "ImageNet-1K, quoted",
    "fashion-mnist": "Fashion-MNIST, measured",
    "elpv": "Solar cells, measured",
}
#: What a drag over the chart does -> what one picks by; Streamlit takes a click for a choice only where a drag is none.
_BRUSHES = {"select": "box", "lasso": "lasso", "pan": "click"}
#: The chart's key, under which its selection comes back.
_CHART = "figure-accuracy-cost"

#: Where designs begin, and how far they may go: what is counted layer by layer must end soon.
_BASE, _MOST_UNITS, _MOST_CHANNELS = "bcdnet_a", 64, 4096
#: Width of a control of the designer in pixels: four in a row, or two where the window is narrow.
_FIELD = 205
#: And of a number that it gives.
_CARD = 218

models = selection.offered()
points = cache.scatter_points(tuple(models))

st.markdown(
    "A binary multiply-accumulate costs a 64th of a real one, so **OPs = BOPs / 64 + FLOPs**. The further up and left "
    "a network stands, the better; what another one beats in both is grey. Accuracies on different data sets do not "
    "compare, so each has its own chart."
)


# -- accuracy against cost --------------------------------------------------------------------------------------------


def _chart(design: tuple[str, dict[str, Any]] | None) -> None:
    """The chart and its table; ``design`` is the variant that the reader's own starts from, and what was changed."""
    sets = list(dict.fromkeys(points.dataset))
    state.valid("cost_set", sets, sets[0])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        dataset = st.radio(
            "Data set",
            sets,
            format_func=lambda name: _SETS.get(name, f"{name}, measured"),
            key="cost_set",
            horizontal=True,
            on_change=state.remember,
            help="Published numbers are on ImageNet-1K; the models here were measured on the sets they were made for.",
        )
        shown = points[points.dataset == dataset]
        here = [model for model in models if model.title in set(shown.name[shown.kind == "measured"])]
        timed = ("packed_mb", "checkpoint_mb", "latency_ms") if here else ("benchmark_ms",)
        axes = [axis for axis in figures.AXES if axis not in figures.MEASURED or axis in timed]
        state.valid("cost_axis", axes, axes[0])
        axis = st.selectbox(
            "Cost",
            axes,
            format_func=_AXES.__getitem__,
            key="cost_axis",
            on_change=state.remember,
            help="Full counts element-wise work as well; conv+fc counts real convolutions and the linear layer only. "
            "Time here is measured when you choose it; that of the benchmark is of the machine it names.",
        )
        state.valid("cost_log", [True, False], True)
        log = st.toggle("Logarithmic", key="cost_log", on_change=state.remember, help="Equal steps mean equal factors.")
        state.valid("cost_mine", [False, True], False)
        unknown = axis in figures.MEASURED and axis != "benchmark_ms"
        mine = st.toggle(
            "My design", key="cost_mine", disabled=unknown, on_change=state.remember,
            help="Draw the cost of the network designed below as a line; its accuracy is not known.",
        )  # fmt: skip
        state.valid("brush", list(_BRUSHES), "select")
        brush = st.segmented_control(
            "Pick by", list(_BRUSHES), format_func=_BRUSHES.__getitem__, key="brush", required=True,
            on_change=state.remember, help="What picks points of the chart; they stand out there and in the table.",
        )  # fmt: skip
    shown, values = _with_cost(shown, here, axis)
    picked = state.several("picked", list(shown.name), (), len(shown))
    custom, design_code = _design_line(design, axis) if mine and design and not unknown else (None, "")
    _badges(dataset, axis, custom is not None)
    fig = figures.accuracy_cost_scatter(shown, axis, custom, log, picked=picked)
    fig.update_layout(dragmode=brush)
    figure.show(
        fig,
        "accuracy-cost",
        f"Accuracy against cost of {int(shown[axis].notna().sum())} networks on {dataset}, with the Pareto front",
        shown,
        _scatter_code(dataset, axis, values, log, picked, design_code),
        key=_CHART,
        on_select=_brushed,
        selection_mode=("points", "box", "lasso"),
    )
    _table(shown, axis, picked, log)


def _with_cost(
    shown: pd.DataFrame, here: list[cache.Model], axis: str
) -> tuple[pd.DataFrame, tuple[pd.DataFrame, str] | None]:
    """The points with the cost of the axis; and, where it was measured, the values and the kind of points they are."""
    if axis == "benchmark_ms":
        try:
            values, kind = tradeoffs.benchmark_latencies()[["name", "value", "how"]], "quoted"
        except ValueError as error:
            st.info(f"{str(error)[0].upper()}{str(error)[1:]}")
            return shown.assign(**{axis: float("nan")}), None
    elif axis in figures.MEASURED:
        values, kind = _measured(here, axis), "measured"
    else:
        return shown, None
    return tradeoffs.with_measured(shown, values, axis, figures.MEASURED[axis], kind), (values, kind)


def _measured(here: list[cache.Model], axis: str) -> pd.DataFrame:
    rows: list[tuple[str, float, str]] = []
    if axis == "checkpoint_mb":
        rows = [(model.title, model.bytes / 1e6, "of the checkpoint file, weights at 32 bits") for model in here]
    else:
        try:
            isa = engines.instruction_set()
        except ValueError as error:
            st.error(str(error))
            here = []
        for k, model in enumerate(here, start=1):
            if axis == "packed_mb":
                size = engines.packed_megabytes(model, isa)
                if size is not None:
                    rows.append((model.title, size, "of the packed file"))
                continue
            time = jobs.answer(
                engines.timed, model, isa, forwards=13, seconds=max(1.0, engines.latency_seconds(model)),
                what=f"Time of {model.title}, {k} of {len(here)}",
            )  # fmt: skip
            if time is None:
                break
            rows.append((model.title, time.deployed_ms, f"{engines.how_timed(time)}, {engines.threads(time.threads)}"))
        if here and (slow := engines.degraded(isa)):
            st.caption(f":material/hourglass_bottom: {slow}")
    return pd.DataFrame(rows, columns=["name", "value", "how"]).astype({"value": float})


def _design_line(design: tuple[str, dict[str, Any]], axis: str) -> tuple[pd.DataFrame | None, str]:
    """The reader's design as a row of costs, and the code that makes it."""
    name, changes = design
    config = cache.configured(name, changes)
    custom = cache.custom_cost(config)[0].to_frame().T
    code = (
        f"config = get_config({name!r}, **{changes!r})\n"
        "custom = computed_costs([config])\n"
    )  # fmt: skip
    if axis == "benchmark_ms":
        try:
            custom = custom.assign(benchmark_ms=engines.estimated_latency(config).sum())
        except ValueError:
            return None, ""  # the design below says why
        code += "custom['benchmark_ms'] = latency_model().estimate(config).sum()\n"
    return custom, code


def _badges(dataset: str, axis: str, estimated: bool) -> None:
    with st.container(horizontal=True):
        if dataset == "ImageNet-1K":
            words.badge("quoted", "accuracy: Xing et al., ECCV 2022, Tables 1 and 2")
        else:
            words.badge("measured", f"accuracy of the models here, on {_SETS.get(dataset, dataset).split(',')[0]}")
        if axis == "benchmark_ms":
            words.badge("measured", "time elsewhere, see the table")
            if estimated:
                words.badge("computed", "my design's time is an estimate")
        elif axis == "latency_ms":
            words.badge("measured", f"time of one image, here and now, {engines.machine()}")
        elif axis in figures.MEASURED:
            words.badge("measured", "sizes of files")
        else:
            words.badge("computed", "costs, save those quoted from Table 1")


def _brushed() -> None:
    """Copy what was selected on the chart: once it is drawn anew, its own selection is gone."""
    found = st.session_state[_CHART]["selection"]["points"]
    customs = [point.get("customdata") or [] for point in found]
    # The browser gives a point's data as a list or as an object of numbered entries.
    rows = [list(custom.values()) if isinstance(custom, dict) else list(custom) for custom in customs]
    _pick([str(row[2]) for row in rows if len(row) > 2])
    # The table keeps its own selection as long as its key stays: another one lets it start from what was picked.
    st.session_state["picks"] = st.session_state.get("picks", 0) + 1


def _rows(key: str, names: list[str]) -> None:
    _pick([names[row] for row in st.session_state[key]["selection"]["rows"] if row < len(names)])


def _pick(names: list[str]) -> None:
    st.session_state["picked"] = list(dict.fromkeys(names))
    state.remember()


def _table(shown: pd.DataFrame, axis: str, picked: list[str], log: bool) -> None:
    compared = shown[shown[axis] > 0] if log else shown
    front = tradeoffs.pareto_front(compared, axis).index
    table = shown.assign(front=shown.index.isin(front)).sort_values(axis, na_position="last")
    names = list(table.name)
    key = f"cost_table_{st.session_state.get('picks', 0)}_{st.session_state['cost_set']}_{axis}"
    kinds = figures.MEASURED.get(axis)
    st.dataframe(
        table[["name", "precision", "top1", "low", "high", axis, "front", "kind", "cost_kind", "source"]],
        hide_index=True,
        height=320,
        key=key,
        on_select=lambda: _rows(key, names),
        selection_mode="multi-row",
        selection_default={"selection": {"rows": [k for k, name in enumerate(names) if name in picked]}},
        column_config={
            "name": "Network",
            "precision": st.column_config.TextColumn("W/A", help="Bits of weights / activations."),
            "top1": st.column_config.NumberColumn("Top-1 (%)", format="%.2f"),
            "low": st.column_config.NumberColumn("from", format="%.2f", help="95 % interval, where it is known."),
            "high": st.column_config.NumberColumn("to", format="%.2f", help="95 % interval, where it is known."),
            axis: st.column_config.NumberColumn(_AXES[axis], format="%.4g" if kinds else "compact"),
            "front": st.column_config.CheckboxColumn("On the front", help="No other one beats it in both."),
            "kind": st.column_config.TextColumn("Accuracy is", help="Measured by this program, or quoted."),
            "cost_kind": st.column_config.TextColumn("Cost is", help="Measured, computed or quoted."),
            "source": "From",
        },
        placeholder="–",
        alt=f"The networks of the chart with {_AXES[axis]}, accuracy and where each number comes from",
    )
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption("Pick points of the chart, or rows: they stand out in both.", width="content")
        if picked:
            st.button("Pick none", on_click=_unpick, help="Let all points stand out again.")


def _unpick() -> None:
    _pick([])
    st.session_state["picks"] = st.session_state.get("picks", 0) + 1


def _scatter_code(
    dataset: str,
    axis: str,
    values: tuple[pd.DataFrame, str] | None,
    log: bool,
    picked: list[str],
    design: str,
) -> str:
    files = [(model.id, model.title, cache.checkpoint_name(model)) for model in models]
    lines = [
        "from analysis.figures.tradeoffs import accuracy_cost_scatter",
        "from analysis.tradeoffs import computed_costs, latency_model, scatter_points, with_measured",
        "from bcdnet.checkpoint import inspect",
        "from bcdnet.variants import get_config\n",
        f"files = {files!r}",
        "about = [(key, title, inspect(path)) for key, title, path in files]",
        "points = scatter_points([(key, title, found['config'], found['card']) for key, title, found in about])",
        f"points = points[points.dataset == {dataset!r}]",
    ]
    if values is not None:
        table, kind = values
        lines.insert(0, "import pandas as pd\n")
        lines += [
            f"values = pd.DataFrame({table.to_dict('list')!r})",
            f"points = with_measured(points, values, {axis!r}, {figures.MEASURED[axis]!r}, {kind!r})",
        ]
    custom = "custom" if design else "None"
    return "\n".join(lines) + (
        f"\n{design}figure = accuracy_cost_scatter(points, {axis!r}, {custom}, log={log}, picked={picked!r})\n"
    )


# -- a network of one's own -------------------------------------------------------------------------------------------


def _start_over() -> None:
    """Another variant to start from: what was changed in the last one is forgotten."""
    for name in state.names():
        if name.startswith("design_"):
            state.forget(name)
    state.remember()


def _numbers(text: str, label: str) -> tuple[int, ...]:
    """ "1, 2" -> (1, 2). ValueError, with a sentence, if it is anything else."""
    try:
        found = tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise ValueError(f"{label} must be whole numbers above 0 with commas between them, such as 1, 2, 2.")
    return found


def _design() -> tuple[str, dict[str, Any]] | None:
    """Controls for a network of one's own: where it starts from and what is changed; None if there is no such one."""
    variants = cache.variants()
    state.valid("base", list(variants), _BASE)
    with st.container(border=True, horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(
            "Start from", list(variants), key="base", on_change=_start_over, width=_FIELD,
            help="A row of the table of variants.",
        )  # fmt: skip
        changes, problem = _changes(variants[name])
    try:
        if problem:
            raise ValueError(problem)
        cache.custom_cost(cache.configured(name, changes))
    except ValueError as error:
        st.error(f"There is no such network: {error}")
        return None
    return name, changes


def _choose(label: str, field: str, options: list[Any], default: Any, help: str, disabled: bool = False) -> Any:
    key = f"design_{field}"
    state.valid(key, options, default)
    return st.selectbox(
        label, options, key=key, on_change=state.remember, help=help, disabled=disabled, width=_FIELD
    )  # fmt: skip


def _count(label: str, field: str, most: range, default: int, help: str, disabled: bool = False) -> int:
    key = f"design_{field}"
    state.valid(key, most, default)
    return int(
        st.number_input(
            label, most[0], most[-1], key=key, on_change=state.remember, help=help, disabled=disabled, width=_FIELD
        )
    )


def _changes(base: cache.Config) -> tuple[dict[str, Any], str]:
    """What the controls ask for, and a sentence on what cannot be read."""
    changes: dict[str, Any] = {}
    changes["precision"] = _choose(
        "Bits of weights / activations", "precision", ["1/1", "32/1", "1/32", "32/32"], base.precision,
        "1/1 is the binary network, 32/1 is training step 1, 32/32 the real-valued twin.",
    )  # fmt: skip
    side = _count("Image side (pixels)", "side", range(8, 513), base.image_size[0], "Pictures are square here.")
    changes["image_size"] = (side, side)
    changes["num_classes"] = _count(
        "Classes", "classes", range(2, 22_001), base.num_classes, "Outputs of the linear layer."
    )
    widths = sorted({k / 8 for k in range(1, 17)} | {3.0, 4.0, float(base.width)})
    changes["width"] = _choose("Width", "width", widths, float(base.width), "Multiplier on every channel count.")
    if base.family == "mixer":
        return changes, ""
    problem = ""
    for field, label, help_ in (
        ("blocks", "Blocks per stage", "Convolution blocks of each stage, before any gives way to MLPs."),
        ("channels", "Channels per stage", "Before the width; a mobile network keeps or doubles them."),
        ("strides", "Strides", "1 keeps a stage's map, 2 halves it."),
    ):
        key = f"design_{field}"
        state.text(key, ", ".join(map(str, getattr(base, field))))
        text = st.text_input(label, key=key, on_change=state.remember, help=help_, width=_FIELD)
        try:
            changes[field] = _numbers(text, label)
        except ValueError as error:
            problem = problem or str(error)
    if sum(changes.get("blocks", ())) > _MOST_UNITS:
        problem = problem or f"there may be {_MOST_UNITS} blocks at most."
    if max(changes.get("channels", (1,))) > _MOST_CHANNELS:
        problem = problem or f"there may be {_MOST_CHANNELS} channels at most."
    return changes | _mlps(base, len(changes.get("blocks", base.blocks))), problem


def _mlps(base: cache.Config, stages: int) -> dict[str, Any]:
    """Controls for what takes the place of convolutions."""
    changes: dict[str, Any] = {}
    if base.family == "mobile":
        changes["mlp_groups"] = _count(
            "Blocks that are MLPs", "groups", range(_MOST_UNITS + 1), base.mlp_groups,
            "How many of the last convolution blocks give way to a group of MLPs and one pointwise unit.",
        )  # fmt: skip
    else:
        numbers = [str(stage) for stage in range(1, stages + 1)]
        state.several("design_stages", numbers, [str(stage) for stage in base.mlp_stages], stages)
        chosen = st.multiselect(
            "Stages of MLPs", numbers, key="design_stages", on_change=state.remember, placeholder="none", width=_FIELD,
            help="Stages whose stride-1 convolutions give way to MLPs (the paper's Table 4).",
        )  # fmt: skip
        changes["mlp_stages"] = tuple(sorted(map(int, chosen)))
    without = not any(changes.values())
    changes["mlps_per_conv"] = _count(
        "MLPs for one convolution", "per_conv", range(1, 7), base.mlps_per_conv,
        "Three have about as many operations as one 3×3 convolution (the paper's Table 5).", without,
    )  # fmt: skip
    kinds = ["P", "S", "L", "PS", "PL", "SL", "PSL", "PSS", "PLL", "PPP"]
    changes["branches"] = _choose(
        "Branches", "branches", kinds, base.branches,
        "Point, short and long range: the tokens each MLP reads (the paper's Table 6).", without,
    )  # fmt: skip
    state.valid("design_embedding", [True, False], base.embedding_ratio is not None)
    embedded = st.toggle(
        "Context embedding", key="design_embedding", on_change=state.remember,
        help="Thresholds that follow the picture, as in BCDNet-B.",
    )  # fmt: skip
    changes["embedding_ratio"] = (base.embedding_ratio or 4) if embedded else None
    return changes


def _costs(name: str, changes: dict[str, Any]) -> None:
    """What a design costs, beside the variant that it starts from."""
    config, base = cache.configured(name, changes), cache.variants()[name]
    (cost, layers), (before, _) = cache.custom_cost(config), cache.custom_cost(base)
    estimate, why = _estimate(config)
    times = (None if estimate is None else float(estimate.sum()), _total(base))
    words.badge("computed", "counted layer by layer, for one picture; nothing is trained")
    row = st.container(horizontal=True)
    for label, text, value, then, help_ in (
        ("OPs", f"{cost.ops_full / 1e6:,.2f} M", cost.ops_full, before.ops_full,
         "BOPs / 64 + FLOPs, convention full."),
        ("OPs, conv+fc", f"{cost.ops_conv_fc / 1e6:,.2f} M", cost.ops_conv_fc, before.ops_conv_fc,
         "The same without element-wise work: the bracket in the paper."),
        ("BOPs", f"{cost.bops / 1e6:,.1f} M", cost.bops, before.bops, "Binary multiply-accumulates."),
        ("Parameters", f"{cost.params / 1e6:,.2f} M", cost.params, before.params,
         f"{cost.binary_params:,} of {cost.params:,} take one bit."),
        ("Memory", f"{cost.megabytes:,.2f} MB", cost.megabytes, before.megabytes,
         "Binary parameters at 1 bit, the others at 32."),
        ("Estimated time", "–" if times[0] is None else f"{times[0]:,.2f} ms", *times, why),
    ):  # fmt: skip
        # Beside the start, unless it is the start.
        change = f"{100 * (value / then - 1):+.1f} %" if value and then and value != then else None
        row.metric(label, text, change, delta_color="inverse", help=help_, border=True, width=_CARD)
    if estimate is None:
        st.caption(f":material/timer_off: No time is estimated: {why}")
    else:
        words.badge("computed", why)
    _layers(name, changes, layers, estimate)


def _estimate(config: cache.Config) -> tuple[pd.Series | None, str]:
    """Estimated milliseconds by layer, and in words how good that is; None and why not."""
    try:
        estimate = engines.estimated_latency(config)
        model = engines.latency_model()
    except ValueError as error:
        return None, str(error)
    return estimate, (
        f"estimated: within {model.within:.1f} % on {len(model.held_out)} networks of 224 pixels that it was not "
        f"fitted to; {model.machine}"
    )


def _total(config: cache.Config) -> float | None:
    estimate, _ = _estimate(config)
    return None if estimate is None else float(estimate.sum())


def _layers(name: str, changes: dict[str, Any], layers: pd.DataFrame, estimate: pd.Series | None) -> None:
    measures = {"ops": "operations", "kilobytes": "memory"} | ({} if estimate is None else {"ms": "estimated time"})
    state.valid("cost_measure", list(measures), "ops")
    measure = st.segmented_control(
        "Where the cost lies", list(measures), required=True, key="cost_measure", format_func=measures.__getitem__,
        on_change=state.remember, help="Unit by unit, in the order of the network.",
    )  # fmt: skip
    assert measure is not None  # one is required
    start = f"from bcdnet.variants import get_config\n\nconfig = get_config({name!r}, **{changes!r})\n"
    if measure == "ms" and estimate is not None:
        code = (
            "from analysis.figures.tradeoffs import latency_bars\nfrom analysis.tradeoffs import latency_model\n"
            + start + "figure = latency_bars(latency_model().estimate(config))\n"
        )  # fmt: skip
        data, fig = estimate.reset_index(), figures.latency_bars(estimate)
    else:
        code = (
            "from analysis.figures.tradeoffs import layer_bars\nfrom analysis.tradeoffs import layer_costs\n"
            + start + f"figure = layer_bars(layer_costs(config), {measure!r})\n"
        )  # fmt: skip
        data, fig = layers, figures.layer_bars(layers, measure)
    figure.show(fig, "layer-costs", f"The {measures[measure]} of every unit of the designed network", data, code)
    with st.expander("Every layer as a table", icon=":material/table:"):
        table = layers
        if estimate is not None:
            units = layers.unit.where(~layers.unit.isin(["fc", "fc_dist"]), "head")
            table = layers.assign(estimated_ms=units.map(estimate).where(~units.duplicated()))
        st.dataframe(
            table,
            hide_index=True,
            placeholder="",
            column_config={"estimated_ms": st.column_config.NumberColumn(
                "estimated (ms)", format="%.4f", help="Of the whole unit, beside its first layer."
            )},
            alt="Parameters, BOPs, FLOPs and OPs of every layer, and the estimated time of every unit",
        )  # fmt: skip
    if estimate is not None:
        _fit()


def _fit() -> None:
    with st.expander("How good the estimate of time is", icon=":material/query_stats:", on_change="rerun") as opened:
        if not opened.open:
            return
        model = engines.latency_model()
        st.markdown(
            "The time of a layer is taken for a sum: so many nanoseconds for each piece of work in it. How many was "
            "fitted, by least squares and none below zero, to the layers of BCDNet-A, which the benchmark timed one by "
            "one. Other networks were timed as a whole and not fitted to: how far off the sum is there says how good "
            "it is."
        )
        words.badge("measured", model.machine)
        figure.show(
            figures.latency_fit(model),
            "latency-fit",
            f"Estimated against measured times; the networks held out are within {model.within:.1f} %",
            pd.concat([model.layers.reset_index(names="of"), model.held_out.reset_index(names="of")]),
            "from analysis.figures.tradeoffs import latency_fit\nfrom analysis.tradeoffs import latency_model\n\n"
            "figure = latency_fit(latency_model())\n",
        )
        left, right = st.columns(2)
        left.dataframe(
            model.held_out.reset_index(),
            hide_index=True,
            column_config={
                "network": "Held out",
                "measured_ms": st.column_config.NumberColumn("measured (ms)", format="%.2f"),
                "estimated_ms": st.column_config.NumberColumn("estimated (ms)", format="%.2f"),
                "error": st.column_config.NumberColumn("error", format="%+.1f %%"),
            },
            alt="Measured and estimated time of the networks held out",
        )
        right.dataframe(
            pd.DataFrame({"work": list(tradeoffs.WORK.values()), "ns": model.ns.to_list()}),
            hide_index=True,
            column_config={"work": "One", "ns": st.column_config.NumberColumn("takes (ns)", format="%.3g")},
            alt="Fitted nanoseconds for each kind of work",
        )


@st.fragment
def workbench() -> None:
    chart = st.container()
    st.subheader("A network of your own design")
    design = _design()
    if design is not None:
        _costs(*design)
    with chart:
        _chart(design)
    state.publish()


workbench()

# -- the paper's tables -----------------------------------------------------------------------------------------------


@st.fragment
def printed() -> None:
    tabs.show("paper_table", {f"Table {number}": partial(_printed, number) for number in range(1, 7)})
    state.publish()


#: How parts of the tables' column names, and units, are written.
_WRITTEN = {
    "w": "W/",
    "a": "A",
    "bops": "BOPs",
    "ops": "OPs",
    "flops": "FLOPs",
    "top1": "top-1",
    "top5": "top-5",
    "bracket": "in brackets",
    "cub": "CUB",
    "mlps": "MLPs",
    "1e6": "10⁶",
    "1e8": "10⁸",
    "1e9": "10⁹",
}


def _heading(name: str, unit: str | None) -> str:
    """ "flops_bracket", "1e8" -> "FLOPs in brackets (10⁸)"."""
    text = " ".join(_WRITTEN.get(part, part) for part in name.split("_")).replace("/ ", "/")
    return text if unit is None else f"{text} ({_WRITTEN.get(unit, unit)})"


def _printed(number: int) -> None:
    table = tradeoffs.paper_table(number)
    words.badge("quoted", table.attrs["source"])
    units = table.attrs["units"]
    st.caption(table.attrs["caption"])
    st.dataframe(
        table.drop(columns="kind"),
        hide_index=True,
        column_config={name: _heading(name, units.get(name)) for name in map(str, table)},
        placeholder="–",
        alt=f"The paper's Table {number}",
    )
    for note in table.attrs["notes"]:
        st.caption(f":material/info: {note}")


st.subheader("The paper's tables")
printed()

st.subheader("Printed and counted")
against = cache.paper_vs_computed()
words.badge("computed", "beside what the paper's Table 1 prints of the networks defined here")
st.markdown(f"**{int(against.agrees.sum())} of {len(against)}** printed costs are what this program counts, rounded.")
quantities = {**_AXES, "flops": "FLOPs, full", "flops_bracket": "FLOPs, conv+fc", "ops": "OPs, full"}
quantities["ops_bracket"] = "OPs, conv+fc"
units = tradeoffs.paper_table(1).attrs["units"]
st.dataframe(
    against.assign(
        method=against.method.str.split(" [", regex=False).str[0],
        quantity=[f"{quantities[name]} ({units[name]})" for name in against.quantity],
    )
    .drop(columns="variant")
    .sort_values("agrees", kind="stable"),
    hide_index=True,
    height=220,
    column_config={
        "printed": st.column_config.NumberColumn(format="%.2f", help="In the paper's Table 1."),
        "computed": st.column_config.NumberColumn(format="%.4f", help="Counted layer by layer."),
        "agrees": st.column_config.CheckboxColumn(help="Whether the count rounds to the printed number."),
    },
    alt="Every cost that the paper prints of the networks defined here, beside what this program counts",
)
st.caption(
    ":material/info: The two that differ are OPs in full. The paper seems to have added BOPs / 64 and FLOPs after "
    "rounding each: ReActNet-C 4.69 · 10 / 64 + 1.57 = 2.30, BCDNet-B 4.82 · 10 / 64 + 0.34 = 1.09 (in 10⁸)."
)

words.misleads(
    "OPs are a convention. How long a network takes depends on the processor and its kernels: a binary network without "
    "them can be slower than a real-valued one. Choose *Time here* as the cost to see what this machine makes of them.",
    "Times here are of the packed engine and of float in PyTorch; other runtimes are faster at float. Two models of "
    "one architecture take equally long: what differs between theirs is how busy the machine was.",
    "Works count differently. Before two published numbers are compared, look whether both count element-wise work.",
    "Quoted accuracies were not measured again here.",
    "The cost of a network of your own design is certain; whether it can be trained to be accurate is not.",
    "Its time is an estimate, for the machine that is named and one image on one thread. It was fitted to layers at "
    "224 pixels and checked on few networks, all relatives of those here: far from them it may be further off.",
)
