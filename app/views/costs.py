"""OPs trade-offs: accuracy against cost, published, measured, and of a variant the reader configures."""

from typing import Any

import pandas as pd
import streamlit as st

from analysis import tradeoffs
from analysis.deployment import Latency
from analysis.figures import tradeoffs as figures
from app import cache, state
from app.widgets import latency, words

_AXES = {
    "ops_full": "OPs, full",
    "ops_conv_fc": "OPs, conv+fc",
    "bops": "BOPs",
    "flops_full": "FLOPs, full",
    "flops_conv_fc": "FLOPs, conv+fc",
    "params": "Parameters",
    "megabytes": "Memory (MB)",
    "latency_ms": "Time here (ms)",
}

models, _ = cache.catalogue()
points = cache.scatter_points(models)

st.markdown(
    "A binary multiply-accumulate costs a 64th of a real one, so **OPs = BOPs / 64 + FLOPs**. The further up and left "
    "a network stands, the better. Accuracies on different data sets do not compare, so each has its own chart."
)


def _scatter(configured: pd.DataFrame | None) -> None:
    left, right = st.columns([4, 1], gap="large")
    with right:
        sets = list(dict.fromkeys(points.dataset))
        names = {"fashion-mnist": "Fashion-MNIST, measured", "ImageNet-1K": "ImageNet-1K, quoted"}
        dataset = st.radio(
            "Data set",
            sets,
            format_func=lambda name: names.get(name, name),
            key="cost_set",
            help="Published numbers are on ImageNet-1K; the models shipped here were measured on Fashion-MNIST.",
        )
        shown = points[points.dataset == dataset]
        here = [model for model in models if model.title in set(shown.name[shown.kind == "measured"])]
        axes = [name for name in figures.AXES if here or name != "latency_ms"]
        state.valid("cost_axis", axes, axes[0])
        axis = st.selectbox(
            "Cost",
            axes,
            format_func=lambda name: _AXES.get(name, name),
            key="cost_axis",
            help="Full counts element-wise work as well; conv+fc counts real convolutions and the linear layer only. "
            "Time is measured on this machine when you choose it.",
        )
        timed = axis == "latency_ms"
        log = st.toggle("Logarithmic", value=timed or dataset == "ImageNet-1K", key=f"cost_log_{dataset}_{timed}",
                        help="Equal steps mean equal factors.")  # fmt: skip
        mine = st.toggle("Show my variant", value=False, key="cost_mine", disabled=timed,
                         help="Draw the cost of the variant configured below as a line; its time is not known.",
                         )  # fmt: skip
    with left:
        place = st.container()
        table = None
        if timed:
            times = latency.latencies(here, "cost_time")
            table = _times(here, times)
            shown = tradeoffs.with_measured(shown, table.rename(columns={"latency_ms": "value"}), "latency_ms", "time")
        with place:
            if dataset == "ImageNet-1K":
                words.badge("quoted", "Xing et al., ECCV 2022, Tables 1 and 2")
            else:
                words.badge("measured", f"accuracy of the models shipped here, on {dataset}")
            if timed and times:
                words.badge("measured", latency.where(times.values()))
        st.plotly_chart(
            figures.accuracy_cost_scatter(shown, axis, configured if mine and not timed else None, log),
            config={"displayModeBar": False},
            alt=f"Accuracy against cost of {len(shown)} networks on {dataset}, with the Pareto front",
        )
        if table is not None:
            st.dataframe(
                table.drop(columns="latency_ms"),
                hide_index=True,
                column_config={
                    "name": "Model",
                    "how": "Timed",
                    "packed_ms": st.column_config.NumberColumn("Packed (ms)", format="%.3f", help="Median."),
                    "float_ms": st.column_config.NumberColumn(
                        "Float (ms)", format="%.3f", help="Median, in PyTorch, weights binarized once where they are."
                    ),
                    "speed": st.column_config.NumberColumn("Faster", format="%.1f×", help="Packed against float."),
                    "runs": st.column_config.NumberColumn("n", help="Runs of the float network."),
                    "packed_runs": st.column_config.NumberColumn("n, packed", help="Runs of the packed engine."),
                },
                placeholder="–",
                alt="Measured time of one image through every network, packed and in float",
            )


def _times(here: list[cache.Model], found: dict[str, Latency]) -> pd.DataFrame:
    """Measured times by id as a table, in the columns that :func:`analysis.tradeoffs.with_latency` takes and more."""
    rows = [
        {
            "name": model.title,
            "packed_ms": time.packed_ms,
            "float_ms": time.float_ms,
            "speed": None if time.packed_ms is None else time.float_ms / time.packed_ms,
            "packed_runs": time.packed_runs or None,
            "runs": time.runs,
            "how": latency.how(time),
            "latency_ms": time.deployed_ms,
        }
        for model in here
        if (time := found.get(model.id)) is not None
    ]
    columns = ["name", "packed_ms", "float_ms", "speed", "packed_runs", "runs", "how", "latency_ms"]
    return pd.DataFrame(rows, columns=columns)


def _configure() -> cache.Config | None:
    """Controls for a variant of one's own; its configuration, or None if it describes no network."""
    variants = cache.variants()
    first, second, third, fourth = st.columns(4)
    name = first.selectbox(
        "Start from",
        list(variants),
        index=list(variants).index("bcdnet_a"),
        key="base",
        help="A row of the table of variants.",
    )
    base = variants[name]
    changes: dict[str, Any] = {}
    changes["precision"] = second.selectbox(
        "Bits of weights / activations", ["1/1", "32/1", "1/32", "32/32"], key=f"precision_{name}",
        help="1/1 is the binary network, 32/1 is training step 1, 32/32 the real-valued twin.",
    )  # fmt: skip
    size = third.number_input(
        "Image side (pixels)", 28, 512, base.image_size[0], step=4, key=f"side_{name}", help="Pictures are square here."
    )
    changes["image_size"] = (int(size), int(size))
    changes["num_classes"] = int(
        fourth.number_input(
            "Classes", 2, 22000, base.num_classes, key=f"classes_{name}", help="Outputs of the linear layer."
        )
    )
    changes["width"] = first.number_input(
        "Width",
        0.125,
        4.0,
        float(base.width),
        step=0.125,
        key=f"width_{name}",
        help="Multiplier on every channel count.",
    )
    if base.family == "mobile":
        changes["mlp_groups"] = int(
            second.number_input(
                "Groups of MLPs", 0, 8, base.mlp_groups, key=f"groups_{name}",
                help="How many of the last convolution blocks give way to binary MLPs and one pointwise unit.",
            )
        )  # fmt: skip
    if base.family != "mixer":
        has_mlps = bool(changes.get("mlp_groups") or base.mlp_stages)
        changes["mlps_per_conv"] = int(
            third.number_input(
                "MLPs for one convolution", 1, 6, base.mlps_per_conv, disabled=not has_mlps, key=f"per_conv_{name}",
                help="Three MLPs have about as many operations as one 3×3 convolution (the paper's Table 5).",
            )
        )  # fmt: skip
        changes["branches"] = fourth.selectbox(
            "Branches", ["PSL", "PSS", "PLL", "PS", "PL", "P"], disabled=not has_mlps, key=f"branches_{name}",
            help="Point, short and long range: the tokens each MLP reads (the paper's Table 6).",
        )  # fmt: skip
        embedded = first.toggle(
            "Context embedding", base.embedding_ratio is not None, key=f"embedding_{name}",
            help="Thresholds that follow the picture, as in BCDNet-B.",
        )  # fmt: skip
        changes["embedding_ratio"] = 4 if embedded else None
    try:
        return cache.configured(name, changes)
    except ValueError as error:
        st.error(str(error))
        return None


chart = st.container()
st.subheader("The cost of any variant")
words.badge("computed", "counted layer by layer, for one picture; nothing is trained or timed")
config = _configure()
cost = None
if config is not None:
    cost, layers = cache.custom_cost(config)
    for column, (label, value, text) in zip(
        st.columns(5),
        [
            ("OPs", f"{cost.ops_full / 1e6:,.2f} M", "BOPs / 64 + FLOPs, convention full."),
            (
                "OPs, conv+fc",
                f"{cost.ops_conv_fc / 1e6:,.2f} M",
                "The same without element-wise work: the bracket in the paper.",
            ),
            ("BOPs", f"{cost.bops / 1e6:,.1f} M", "Binary multiply-accumulates."),
            ("Parameters", f"{cost.params / 1e6:,.2f} M", f"{cost.binary_params:,} of {cost.params:,} take one bit."),
            ("Memory", f"{cost.megabytes:,.2f} MB", "Binary parameters at 1 bit, the others at 32."),
        ],
        strict=True,
    ):
        column.metric(label, value, help=text, border=True)
    measure = st.segmented_control(
        "Where the cost lies", ["ops", "kilobytes"], default="ops", required=True, key="cost_measure",
        format_func=lambda name: {"ops": "operations", "kilobytes": "memory"}[name],
        help="Unit by unit, in the order of the network.",
    )  # fmt: skip
    st.plotly_chart(
        figures.layer_bars(layers, measure or "ops"),
        config={"displayModeBar": False},
        alt=f"Cost of every unit of the configured {config.name}",
    )
    with st.expander("Every layer as a table", icon=":material/table:"):
        st.dataframe(layers, hide_index=True, alt="Parameters, BOPs, FLOPs and OPs of every layer")
with chart:
    _scatter(None if cost is None else cost.to_frame().T)

st.subheader("The paper's tables")
tabs = st.tabs([f"Table {number}" for number in range(1, 7)])
for number, tab in enumerate(tabs, start=1):
    with tab:
        table = tradeoffs.paper_table(number)
        words.badge("quoted", table.attrs["source"])
        units = table.attrs["units"]
        st.caption(table.attrs["caption"])
        st.dataframe(
            table.drop(columns="kind"),
            hide_index=True,
            column_config={name: f"{name} ({unit})" for name, unit in units.items() if name in table},
            placeholder="–",
            alt=f"The paper's Table {number}",
        )
        for note in table.attrs["notes"]:
            st.caption(f":material/info: {note}")

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
    "The cost of a configured variant is certain; whether it can be trained to be accurate is not.",
)
