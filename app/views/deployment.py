"""Deployment: the same image through the float simulation and through the packed engine."""

import dataclasses

import numpy as np
import pandas as pd
import streamlit as st
from scipy.special import softmax

from analysis.deployment import ROUNDING, RUNTIMES
from analysis.figures import deployment as figures
from app import cache, engines, state
from app.widgets import boxes, figure, selection, tabs, words

model, picture = selection.chosen()
st.markdown(
    "The **float simulation**, in which a network is trained, keeps its ±1 in 32-bit floats. The **packed engine** "
    "holds a bit for each and multiplies 64 and more of them at once by XOR and by counting ones. This page takes the "
    "picture in the sidebar through both."
)
try:
    isa = engines.instruction_set()
except ValueError as error:
    st.error(str(error))
    st.stop()
if why := engines.packable(model):
    st.info(f"{model.title} stays a float network: {why} Choose a 1/1 model in the sidebar.", icon=":material/info:")
    st.stop()
if slow := engines.degraded(isa):
    st.warning(f"{slow} Bits are the same; times say nothing about the kernels.", icon=":material/hourglass_bottom:")

twin = engines.twin(model, picture, isa)
layers = twin.layers
parts = engines.file_parts(model, isa)
quick = engines.latency(model, isa)
names = model.classes
differ, bits = int(layers.differ.sum()), int(layers.bits.sum())
first = layers.layer[layers.differ > 0].head(1).tolist()
float_class, packed_class = (names[int(logits.argmax())] for logits in (twin.float_logits, twin.packed_logits))
embedded = twin.differ_stored is not None
where = "the reference in PyTorch" if engines.degraded(isa) else isa
packing = figure.loading(model, picture) + "engine = bcdnet.pack(model)\n"
imports = "from analysis import deployment\nfrom analysis.figures import deployment as figures\n\n"


def _headline() -> None:
    files = parts.groupby("file").bytes.sum()
    assert quick.packed_ms is not None
    tiles = [
        ("Bits that differ", f"{differ:,}", f"of {bits:,}",
         "End to end: each graph goes on with its own values, so that one differing bit moves those after it."),
        ("Logits differ by", words.scientific(np.abs(twin.float_logits - twin.packed_logits).max()),
         f"logits up to {np.abs(twin.float_logits).max():.3g}", "At most. The two graphs add in another order."),
        ("Time, ms", f"{quick.packed_ms:.2f}",
         f"{quick.float_ms:.2f} in float · {quick.float_ms / quick.packed_ms:.0f}×",
         f"One image, {engines.threads(engines.THREADS)}: median of {quick.packed_runs} runs, in turns with "
         f"{quick.runs} of the float graph with its weights binarized once."),
        ("File, kB", f"{files['packed'] / 1e3:,.1f}",
         f"{files['checkpoint'] / 1e3:,.1f} as checkpoint · {files['checkpoint'] / files['packed']:.0f}×",
         "Sizes of the two files, names and card included."),
    ]  # fmt: skip
    with st.container(horizontal=True):
        for label, value, delta, text in tiles:
            st.metric(label, value, delta, delta_color="off", delta_arrow="off", help=text, border=True)


def _verdict() -> None:
    """What the differing bits mean, in a sentence or two."""
    farthest = layers.distance.max()
    if farthest > ROUNDING:
        st.error(
            f"A bit that differs lies {words.scientific(farthest)} standard deviations from its threshold, which is "
            "more than float rounding explains. Engine and float graph seem not to be the same network: please report "
            "it, with the model and the picture."
        )
        return
    if not differ:
        st.success(f"Both take all {bits:,} decisions alike, and both say **{packed_class}**.", icon=":material/check:")
        return
    turned, matrices, carried = (int(layers[cause].sum()) for cause in ("turned", "matrices", "carried"))
    causes = []
    if turned:
        causes.append(f"{turned:,} because the two graphs round differently ({_within(farthest)})")
    if matrices:
        causes.append(
            f"{matrices:,} because the engine holds the embedding's matrices in half precision "
            f"({_within(layers.matrix_distance.max())})"
        )
    if carried:
        causes.append(f"{carried:,} because bits before them differ")
    end = f"Still, both say **{packed_class}**."
    if float_class != packed_class:
        end = f"Here that matters: the float graph says **{float_class}**, the engine **{packed_class}**."
    st.info(
        f"{differ:,} of {bits:,} bits differ, the first in {first[0]}: {'; '.join(causes)}. {end}",
        icon=":material/call_split:",
    )


def _within(distance: float) -> str:
    return f"at most {words.scientific(distance)} standard deviations from the threshold"


_headline()
_verdict()
if embedded:
    st.caption(
        f":material/info: {model.title} has context embeddings, whose matrices the engine rounds to half precision "
        "when it is packed. That is a change of the network, if a small one: all numbers here compare with the float "
        "graph as it was trained. With its matrices rounded alike, "
        + (
            "no bit differs."
            if twin.differ_stored == 0
            else f"{twin.differ_stored:,} bit{'s differ' if twin.differ_stored != 1 else ' differs'}."
        )
    )


def _layer_by_layer() -> None:
    left, right = boxes.beside(450, 450)
    with left:
        words.badge("measured", "on the picture in the sidebar")
        st.markdown("**How near bits come to turning**")
        figure.show(
            figures.threshold_room(layers),
            "threshold-room",
            f"Rounding and the nearest bit's distance to its threshold in every binary layer; {differ:,} bits differ",
            layers,
            packing + imports + "figure = figures.threshold_room(deployment.twin(model, engine, x).layers)\n",
        )
        st.caption(
            "Given the same input, a bit can turn only where the difference of the two graphs reaches past the nearest "
            f"bit's distance: {'orange' if embedded else 'blue'} right of green."
        )
    with right:
        times = engines.layer_times(model, isa)
        words.badge("measured", f"medians of {times.attrs['runs']} runs, {where}, {engines.threads(engines.THREADS)}")
        st.markdown("**Time of each layer**")
        slowest = times.sort_values("packed_ms").iloc[-1]
        figure.show(
            figures.layer_dumbbells(times),
            "layer-times",
            f"Time of every layer in float and packed, where {slowest.layer} takes longest: {slowest.packed_ms:.3f} ms",
            times,
            packing + imports + "figure = figures.layer_dumbbells(deployment.layer_times(model, engine, x))\n",
        )
        st.caption(
            f"Sum of the layers: {times.float_ms.sum():.2f} ms in float, {times.packed_ms.sum():.2f} ms packed. "
            "Numbers say how many times as long float takes. Layers are timed at another moment than the whole network "
            "above, so on a busy machine the two need not agree."
        )
    if differ:
        st.markdown("**Bits that differ**")
        figure.show(
            figures.differing_bits(layers),
            "differing-bits",
            f"Bits that differ in every binary layer and why; the first is in {first[0]}",
            layers,
            packing + imports + "figure = figures.differing_bits(deployment.twin(model, engine, x).layers)\n",
        )
    with st.expander("Every layer as a table", icon=":material/table:"):
        st.dataframe(
            layers.merge(times, on="layer").drop(
                columns=[] if embedded else ["matrices", "matrix_distance", "matrix_rounding"]
            ),
            hide_index=True,
            column_config={
                "bits": st.column_config.NumberColumn(
                    format="localized", help="Of the layer's input; 0 where it is real."
                ),
                "differ": st.column_config.NumberColumn(format="localized", help="Bits that differ, end to end."),
                "turned": st.column_config.NumberColumn(format="localized", help="Of these, turned by float rounding."),
                "matrices": st.column_config.NumberColumn(
                    format="localized", help="Of these, turned by matrices in half precision."
                ),
                "carried": st.column_config.NumberColumn(
                    format="localized", help="Of these, that follow from bits that differ before."
                ),
                "distance": st.column_config.NumberColumn(
                    format="scientific",
                    help=f"Farthest of the turned bits from its threshold; {ROUNDING:.0e} is allowed.",
                ),
                "matrix_distance": st.column_config.NumberColumn(
                    "distance, matrices", format="scientific", help="The same of the bits turned by the matrices."
                ),
                "nearest": st.column_config.NumberColumn(
                    format="scientific", help="Distance of the nearest bit of all."
                ),
                "rounding": st.column_config.NumberColumn(
                    format="scientific", help="Largest difference of the two graphs given the same input."
                ),
                "matrix_rounding": st.column_config.NumberColumn(
                    "rounding, matrices", format="scientific", help="The same with matrices as they were trained."
                ),
                "output_difference": st.column_config.NumberColumn(
                    "output, end to end", format="scientific", help="Largest absolute difference of the layer's output."
                ),
                "output_rounding": st.column_config.NumberColumn(
                    "output, same input",
                    format="scientific",
                    help="The same, both given the engine's input and matrices.",
                ),
                "float_ms": st.column_config.NumberColumn("float, ms", format="%.4f"),
                "packed_ms": st.column_config.NumberColumn("packed, ms", format="%.4f"),
            },
            alt="Bits, distances to thresholds, differences and times of every layer in both graphs",
        )
        st.caption("Distances and rounding are in standard deviations of the layer's distances to its thresholds.")


def _channel(label: str, key: str, channels: int, default: int, of: str) -> int:
    """A control for one of so many channels."""
    state.valid(key, range(channels), default)
    text = f"The channel of {of} that is drawn."
    return int(st.number_input(label, 0, channels - 1, step=1, key=key, on_change=state.remember, help=text))


def _one_layer() -> None:
    controls, drawing = boxes.beside(220, 680)
    with controls:
        inner = list(layers.layer[layers.kind != "head"])
        offered = [name for name in cache.layers(model) if name in inner]
        name = selection.layer(offered, first[0] if first else offered[-1])
        maps = engines.layer_maps(model, picture, name, isa)
        channel = _channel("Output channel", "twin_output", len(maps.float_output), 0, "the output")
        bit_channel = 0
        if maps.float_bits is not None:
            divided = _most_divided(maps.float_bits, maps.packed_bits)
            bit_channel = _channel("Input channel", "twin_input", len(maps.float_bits), divided, "input bits")
        row = layers[layers.layer == name].iloc[0]
        st.metric("Bits that differ here", f"{row.differ:,}", help=f"Of {row.bits:,}, end to end.")
        st.metric(
            "Output differs by", words.scientific(row.output_difference), help="At most, over all channels, end to end."
        )
    with drawing:
        words.badge("measured", "both graphs end to end, on the picture in the sidebar")
        figure.show(
            figures.twin_maps(maps, int(channel), int(bit_channel)),
            "one-layer",
            f"Channel {channel} of {name} in float, packed, and their difference; {row.differ:,} input bits differ",
            {key: value for key, value in dataclasses.asdict(maps).items() if value is not None},
            packing
            + imports
            + f"maps = deployment.layer_maps(model, engine, x, {name!r})\n"
            + f"figure = figures.twin_maps(maps, {channel}, {bit_channel})\n",
        )


def _most_divided(ours: np.ndarray, packed: np.ndarray | None) -> int:
    return 0 if packed is None else int((ours != packed).sum((1, 2)).argmax())


def _outcome() -> None:
    left, right = boxes.beside(450, 450)
    with left:
        words.badge("measured", "logits and their softmax, both graphs")
        best = np.argsort(-twin.packed_logits, kind="stable")[:5]
        st.dataframe(
            pd.DataFrame(
                {
                    "class": [names[k] for k in best],
                    "float": 100 * softmax(twin.float_logits)[best],
                    "packed": 100 * softmax(twin.packed_logits)[best],
                    "difference": (twin.packed_logits - twin.float_logits)[best],
                }
            ),
            hide_index=True,
            column_config={
                "float": st.column_config.NumberColumn("float, %", format="%.3f"),
                "packed": st.column_config.NumberColumn("packed, %", format="%.3f"),
                "difference": st.column_config.NumberColumn("logits: packed − float", format="scientific"),
            },
            alt=f"The five likeliest classes in both graphs: {float_class} in float, {packed_class} packed",
        )
    with right:
        words.badge("measured", "sizes of the two files")
        figure.show(
            figures.file_bars(parts),
            "files",
            "What the checkpoint and the packed file hold",
            parts,
            "from pathlib import Path\n\n"
            + figure.loading(model)
            + "engine = bcdnet.pack(model)\n"
            + imports
            + f"size = Path({cache.checkpoint_name(model)!r}).stat().st_size\n"
            + "packed = len(deployment.packed_file(engine))\n"
            + "figure = figures.file_bars(deployment.file_parts(model, engine, size, packed))\n",
        )
        cost = cache.network_cost(model.config)
        engine = engines.engine(model, isa)
        st.caption(
            f"Packed: {engine.binary_params:,} binary weights, {engine.real_params:,} other numbers. The checkpoint "
            f"holds the {cost.params:,} parameters at 32 bits, and the statistics of batch normalisation."
        )
        st.download_button(
            "Download the packed file",
            engines.packed_file(model, isa),
            f"{model.id}.packed.safetensors",
            "application/octet-stream",
            icon=":material/download:",
            help="For `bcdnet.load_engine` and `bcdnet predict --engine packed`.",
        )


def _speed() -> None:
    known = engines.speed_known(model, isa)
    seconds = engines.speed_seconds(model, isa)
    st.markdown(
        f"One image through the three, in turns, on up to {engines.threads(engines.cores())} of this "
        f"machine ({engines.machine()}): about {seconds:.0f} s."
    )
    pressed = st.button("Measure now", type="primary", key="speed_go", help="Any other click cancels the work.")
    if not (known or pressed):
        return
    with words.progress(pressed, "numbers of threads") as report:
        speed = engines.speed(model, isa, report, anew=pressed)
    words.badge("measured", f"since the dashboard was started, one image, {where}")
    left, right = boxes.beside(360, 520)
    with left:
        figure.show(
            figures.speed_lines(speed),
            "speed",
            "Time of one image by number of threads, in float and packed",
            speed,
            "import pandas as pd\n\n"
            + figure.loading(model, picture)
            + imports
            + f"tables = [deployment.speed(model, x, n) for n in {sorted(set(speed.threads))}]\n"
            + "figure = figures.speed_lines(pd.concat(tables, ignore_index=True))\n",
        )
    right.dataframe(
        speed.assign(
            runtime=speed.runtime.map(RUNTIMES),
            spread=[f"{low:.3g} – {high:.3g}" for low, high in zip(speed.p10, speed.p90, strict=True)],
        )[["threads", "runtime", "median", "spread", "runs", "times_faster"]],
        hide_index=True,
        column_config={
            "runtime": "what runs",
            "median": st.column_config.NumberColumn("ms", format="%.3f", help="Median for one image."),
            "spread": st.column_config.TextColumn("10 – 90 %", help="Four fifths of the runs lie between, in ms."),
            "runs": st.column_config.NumberColumn("n", help="Runs that were timed."),
            "times_faster": st.column_config.NumberColumn(
                "speed", format="%.1f×", help="How many times as fast as float with weights binarized once."
            ),
        },
        alt="Median time of one image in float and packed, by number of threads",
    )
    if (load := speed.attrs["load"]) > engines.cores():
        st.caption(
            f":material/info: The machine was busy, with a load of {load:.1f} on {engines.cores()} cores. Times are "
            "longer than they would be on a quiet one, those of several threads most of all."
        )


_TABS = {
    "Layer by layer": _layer_by_layer,
    "One layer, both ways": _one_layer,
    "What comes out, and what it takes": _outcome,
    "How fast it runs here": _speed,
}


@st.fragment
def details() -> None:
    tabs.show("deployment_tab", _TABS)
    state.publish()


details()
words.misleads(
    "One picture is no proof. `bcdnet evaluate --engine packed` runs the whole test set through the engine.",
    "The float simulation binarizes its weights anew in every pass, as training needs it. Nobody would deploy that: "
    "ratios are given against float with weights that were binarized once.",
    "The float graph runs in PyTorch. Other runtimes run the same network faster: `bcdnet bench --against` compares.",
    "Times are of this machine as busy as it was. A network as small as the shipped ones has layers of some "
    "microseconds, where calling costs as much as computing; the ratio at 224 pixels is another.",
    "Reading the clock after each layer takes time as well, so the layers' sum is not the time of the whole.",
    "A larger difference far down is no sign of a faulty layer: it may all follow from one bit. What counts is the "
    "difference given the same input.",
)
