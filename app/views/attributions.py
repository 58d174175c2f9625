"""Attribution: what the network predicts for a picture, and which pixels speak for it."""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from analysis import attribution, faithfulness
from analysis.attribution import Attribution, rank_correlation
from analysis.figures import attribution as figures
from analysis.figures import faithfulness as faithfulness_figures
from analysis.methods import METHODS
from app import cache, jobs, state
from app.widgets import boxes, figure, scale, selection, tabs, words

model, picture = selection.chosen()
_SIDE = min(model.config.image_size)
#: Name of an option -> (label, smallest, largest, parts of a whole that it is set in, help).
_OPTIONS: dict[str, tuple[str, int, int, int, str]] = {
    "samples": ("Samples", 1, 200, 1, "More samples: less noise, more time."),
    "noise": ("Noise (%)", 1, 100, 100, "Standard deviation of the noise, in percent of the picture's range."),
    "steps": ("Steps", 2, 500, 1, "Points on the line from the baseline to the picture."),
    "grid": ("Blocks a side", 2, _SIDE, 1, "The picture is cut into this many blocks in each direction."),
    "window": ("Window (pixels)", 1, _SIDE, 1, "Side of the square that is covered."),
    "stride": ("Stride (pixels)", 1, _SIDE, 1, "How far the square moves from one position to the next."),
}

#: What a map can be drawn on -> how it is called.
_UNDER = {"input": "the network's input", "picture": "the original picture"}

seen = cache.seen(model, picture)
image = np.asarray(seen.image)
scores = cache.probabilities(model, picture)
if not np.isfinite(scores).all():
    st.error("The network's output for this picture is not a number, so there is nothing to explain.")
    st.stop()
status = cache.method_status(model)

st.markdown(
    "Each map says which pixels speak **for** the chosen class (red) and which **against** it (blue). On a binary "
    "network a gradient passes through signs only with the help of a *surrogate*, so beside each map stands one that "
    "needs no gradient at all."
)


def _options(method: str) -> dict[str, Any]:
    """What the reader set for the method; nothing for what was left as it is."""
    offered = [name for name in METHODS[method].options if name in _OPTIONS]
    chosen = {}
    if offered:
        with st.popover("Options", icon=":material/tune:", width="stretch"):
            for name in offered:
                label, low, high, parts, text = _OPTIONS[name]
                usual = METHODS[method].options[name]
                usual = usual if usual is None else round(usual * parts)
                key = f"{method}_{name}"
                value = state.valid(key, [None, *range(low, high + 1)], usual)
                st.number_input(label, low, high, None, step=1, help=text, placeholder="automatic", key=key)
                if value is not None and value != usual:
                    chosen[name] = value if parts == 1 else value / parts
    return chosen


def _weight(key: str) -> int:
    """Forward passes that an image costs by a method: a gradient takes about two more."""
    return 1 if METHODS[key].validity == "exact" else 3


def _map(method: str, layer: str | None, options: Mapping[str, Any]) -> Attribution | None:
    """The map of the chosen class; None as long as there is none, and the page says why."""
    return jobs.answer(
        attribution.attribute,
        model,
        picture,
        target,
        method,
        layer,
        against,
        forwards=_weight(method) * cache.cost_estimate(model, method, **options),
        what=METHODS[method].title,
        **options,
    )


def _under() -> tuple[NDArray[np.uint8], figures.Box | None]:
    """What the maps are drawn on, and the part of it that they cover; None: all of it."""
    original = np.asarray(picture.image)
    if np.array_equal(original, image):
        return image, None
    shown = state.valid("drawn_on", list(_UNDER), "input")
    st.segmented_control(
        "Drawn on",
        list(_UNDER),
        format_func=_UNDER.__getitem__,
        key="drawn_on",
        required=True,
        on_change=state.remember,
        help="The pixels that the network is given, or the picture they were taken from, with a dotted edge round the "
        "part that the network sees.",
    )
    return (image, None) if shown == "input" else (original, seen.box)


def _draw(
    result: Attribution, name: str, alt: str, limit: float | None, options: Mapping[str, Any] = MappingProxyType({})
) -> None:
    chosen: dict[str, Any] = {"layer": result.layer, "against": result.against, **options}
    arguments = [f"{name}={value!r}" for name, value in chosen.items() if value is not None]
    figure.show(
        figures.overlay(result.map, under, size=380, limit=limit, box=box),
        name,
        alt,
        {"map": result.map, "raw": result.raw} | ({} if box is None else {"box": np.asarray(box)}),
        figure.loading(model, picture) + "from analysis.attribution import attribute\n"
        "from analysis.figures.attribution import overlay\n\n"
        f"result = attribute({', '.join(['model', 'x', str(result.target), repr(result.method), *arguments])})\n"
        f"figure = overlay(result.map, {_code(box)}, size=380{'' if limit is None else f', limit={limit!r}'})\n",
    )
    for note in result.notes:
        st.caption(note)


def _code(box: figures.Box | None) -> str:
    """What a figure is drawn on, in Python."""
    return "image" if box is None else "np.asarray(picture), box=how.view(picture).box"


# Boxes of a fixed width, which a narrow window stacks; columns would squeeze the maps instead.
with st.container(horizontal=True, gap="medium"):
    controls, maps = st.container(width=220), st.container(width=652)
with maps:
    waiting = st.container()  # the progress of the maps, as wide as both
    with st.container(horizontal=True, gap="large"):
        scope = selection.scale("map_scale", "map")
        under, box = _under()
    with st.container(horizontal=True, gap="medium"):
        left, right = st.container(width=310), st.container(width=310)
with controls:
    words.badge("measured", "softmax of the logits")
    bars = st.container()  # above the choice of the class that they mark
    target = selection.target([model], picture)
    top = cache.top_k(model, picture)
    known = "model.card['classes']" if model.card.get("classes") else model.classes
    with bars:
        figure.show(
            figures.top_bars(top, chosen=target),
            "top-classes",
            f"Top five classes; {model.classes[int(scores.argmax())]} leads with {scores.max():.0%}",
            top,
            figure.loading(model, picture) + "from analysis.comparison import top_k\n"
            "from analysis.figures.attribution import top_bars\n\n"
            f"classes = {known}\n"
            f"figure = top_bars(top_k(model, x, classes), chosen={target})\n",
        )
    if picture.label is None:
        st.caption(
            f"The network knows its {len(model.classes)} classes only and always names one: for a picture of "
            "anything else the percentages mean nothing."
        )
    runnable = list(status.index[status.runnable])
    state.valid("method", runnable, "grad_cam")
    method = st.selectbox(
        "Method",
        runnable,
        format_func=lambda key: status.loc[key, "title"],
        key="method",
        help="How the pixels' share is found. Those that mean nothing on this network are listed below, with reasons.",
    )
    layer = None
    if METHODS[method].per_layer:
        offered = cache.target_layers(model)
        layer = selection.layer(
            offered, offered[-1], help="Grad-CAM explains by this layer's map. Exact at the last one only."
        )
    rivals = [int(k) for k in scores.argsort()[::-1] if k != target]
    state.valid("against", [None, *rivals], None)
    against = st.selectbox(
        "Compared with",
        rivals,
        index=None,
        format_func=lambda k: model.classes[k],
        key="against",
        placeholder="nothing",
        help="With a second class, the map explains the difference of the two logits: why this one and not that one.",
    )
    options = _options(method)

reference = "feature_ablation" if method != "feature_ablation" else "occlusion"
with waiting:
    try:
        result, check = _map(method, layer, options), _map(reference, None, {})
    except ValueError as error:  # options that do not go together
        st.error(str(error))
        st.stop()
pair = [None if one is None else one.map for one in (result, check)]
limits = [None, None] if scope == "map" else scale.limits([pair], scope)[0]
with left:
    if result is not None:
        st.markdown(f"**{METHODS[method].title}**" + (f" of {layer}" if layer else ""))
        words.badge(*words.VALIDITY[result.validity])
        _draw(result, "attribution", f"{METHODS[method].title} map for {model.classes[target]}", limits[0], options)
with right:
    if check is not None:
        st.markdown(f"**{METHODS[reference].title}**, for comparison")
        words.badge(*words.VALIDITY[check.validity])
        _draw(
            check,
            "attribution-without-gradient",
            f"{METHODS[reference].title} map for {model.classes[target]}, which needs no gradient",
            limits[1],
        )
        if result is not None:
            same = result.raw.shape == check.raw.shape
            agreement = rank_correlation(*((result.raw, check.raw) if same else (result.map, check.map)))
            words.badge("measured", "on this picture")
            st.metric(
                "Rank correlation of the two maps",
                "undefined" if np.isnan(agreement) else f"{agreement:+.2f}",
                help="Spearman's: +1 if both put the pixels in the same order, 0 if they have nothing in common.",
            )

# -- what else there is to ask of a map -------------------------------------------------------------------------------

_AXES = ("classes", "methods", "layers")
#: Members of an axis of the grid, at most; layers that it begins with, about.
_MOST, _LAYERS = 6, 4


@st.fragment
def more() -> None:
    tabs.show(
        "attribution_tab",
        {
            "The methods": _methods,
            "Is it faithful?": _faithful,
            "Randomised": _randomised,
            "Surrogate meter": _surrogate,
            "Grid": _grid,
            "Two models": _two_models,
        },
    )
    state.publish()


def _methods() -> None:
    table = status.assign(
        formula=[METHODS[key].formula for key in status.index], source=[METHODS[key].citation for key in status.index]
    )
    if result is not None:  # what holds of a method may depend on the layer
        table.loc[method, "validity"] = result.validity
    text = st.column_config.TextColumn
    st.dataframe(
        table[["title", "validity", "why", "formula", "source"]],
        hide_index=True,
        row_height=88,  # four lines, so that no sentence is cut
        height="content",
        column_config={
            "title": text("method"),
            "validity": text(help="On this network; of the method drawn above, at its layer."),
            "why": text(width=250),
            "formula": text(width=240),
            "source": text(width=176),
        },
        alt="Every attribution method, whether it is exact, a surrogate or invalid on this network, and why",
    )


def _named() -> dict[str, Any]:
    """What settles the map on the left, beside target and method."""
    return {"layer": layer, "against": against, **options}


def _call(function: str, **more: Any) -> str:
    told = [f"{name}={value!r}" for name, value in {**_named(), **more}.items() if value is not None]
    return f"{function}({', '.join(['model', 'x', str(target), repr(method), *told])})"


def _faithful() -> None:
    found: faithfulness.Judgement | None = jobs.answer(
        faithfulness.judge,
        model,
        picture,
        target,
        method,
        forwards=_weight(method) * cache.ask(faithfulness.judge_passes, model, method, **options),
        what="Faithfulness",
        **_named(),
    )
    if found is None:
        return
    words.badge("measured", "on this picture, beside five random maps of the same values")
    code = (
        figure.loading(model, picture) + "from analysis.faithfulness import judge\n"
        "from analysis.figures import faithfulness as figures\n\n"
        f"found = {_call('judge')}\n"
    )
    curves = found.curves
    figure.show(
        faithfulness_figures.removal_curves(curves),
        "deletion-insertion",
        f"Deletion area {curves.deletion.value:.3f}, of random maps {curves.deletion.random.mean():.3f}; insertion "
        f"area {curves.insertion.value:.3f}, of random maps {curves.insertion.random.mean():.3f}",
        curves.points,
        code + "figure = figures.removal_curves(found.curves)\n",
    )
    pair = [found.infidelity, found.sensitivity]
    figure.show(
        faithfulness_figures.score_bars(pair),
        "faithfulness-scores",
        "; ".join(f"{score.name} {score.value:.3g}, of random maps {score.random.mean():.3g}" for score in pair),
        faithfulness.scores([curves.deletion, curves.insertion, *pair]).reset_index(),
        code + "figure = figures.score_bars([found.infidelity, found.sensitivity])\n",
    )
    st.caption(
        "Deletion and insertion: pixels go, or come, in the order of the map; a faithful map falls, or rises, early. "
        "Infidelity: how badly the map predicts what random removals do, 0 exactly and 1 not at all. Sensitivity: how "
        "much the map changes when the picture hardly does."
    )


def _randomised() -> None:
    found = jobs.answer(
        faithfulness.randomise,
        model,
        picture,
        target,
        method,
        forwards=_weight(method) * cache.ask(faithfulness.randomise_passes, model, method, **options),
        what="Randomised parameters",
        **_named(),
    )
    if found is None:
        return
    words.badge("measured", "on this picture; parameters shuffled from the head down to the stem")
    figure.show(
        faithfulness_figures.randomisation_curve(found),
        "randomisation",
        f"Rank correlation with the trained network's map falls from 1 to {found.similarity.iloc[-1]:.2f} when every "
        "stage is randomised",
        found,
        figure.loading(model, picture) + "from analysis.faithfulness import randomise\n"
        "from analysis.figures.faithfulness import randomisation_curve\n\n"
        f"figure = randomisation_curve({_call('randomise')})\n",
    )
    st.caption("A map that stays the same while the parameters lose all they learned does not show the network.")


def _surrogate() -> None:
    meter: faithfulness.SurrogateMeter | None = jobs.answer(
        faithfulness.surrogate_meter,
        model,
        picture,
        target,
        against,
        forwards=2 * cache.ask(faithfulness.surrogate_passes, model),
        what="Surrogate meter",
    )
    if meter is None:
        return
    words.badge("measured", "on this picture: gradients against blocks that are taken away")
    figure.show(
        faithfulness_figures.surrogate_gauge(meter),
        "surrogate-meter",
        "Rank correlation with block ablation: "
        + ", ".join(f"{row.title} {row.correlation:.2f}" for row in meter.correlations.itertuples()),
        meter.correlations,
        figure.loading(model, picture) + "from analysis.faithfulness import surrogate_meter\n"
        "from analysis.figures.faithfulness import surrogate_gauge\n\n"
        f"figure = surrogate_gauge(surrogate_meter(model, x, {target}, {against}))\n",
    )
    st.markdown("\n".join(f"- {sentence}" for sentence in meter.verdict))
    st.caption(
        f"Integrated gradients ought to sum to f(x) − f(b) = {meter.output_change:+.3f}; they miss it by "
        f"{meter.residual:+.3f}."
    )


def _members(axis: str, offered: list[str], default: list[str], name: Callable[[str], str]) -> list[str]:
    """What stands along an axis of the grid: ``default``, which follows class and method, until the reader chooses."""
    key, begun = f"grid_{axis}", f"grid_{axis}_begun"
    if state.last(key) == st.session_state.get(begun):
        state.forget(key)
    state.several(key, offered, default, _MOST)
    st.session_state[begun] = default
    return st.multiselect(
        axis.capitalize(),
        offered,
        format_func=name,
        key=key,
        max_selections=_MOST,
        on_change=state.remember,
        help=f"One row or column of maps each, {_MOST} at most.",
    )


def _calls(axes: list[str], rows: list[str], columns: list[str]) -> dict[tuple[str, str], tuple[tuple[Any, ...], Any]]:
    """(row, column) -> class, method, layer and second class of a map of the grid, and the method's options."""
    calls = {}
    for place in itertools.product(rows, columns):
        cell = dict(zip(axes, place, strict=True))
        how = cell.get("methods", "grad_cam" if "layers" in axes else method)
        where = cell.get("layers", layer) if METHODS[how].per_layer else None
        calls[place] = (int(cell.get("classes", target)), how, where, against), options if how == method else {}
    return calls


def _grid() -> None:
    if result is None or check is None:  # some of its maps may be the same, and are under way there
        st.info("The two maps above come first; compute them, and these follow.")
        return
    rival = "" if against is None else f" − {model.classes[against]}"
    with st.container(horizontal=True, gap="large"):
        chosen: list[str] = []
        for key, label, usual in (("grid_rows", "Rows", "methods"), ("grid_columns", "Columns", "classes")):
            offered = [axis for axis in _AXES if axis not in chosen]
            state.valid(key, offered, usual if usual in offered else offered[0])
            chosen.append(st.session_state[key])
            st.segmented_control(
                label, offered, key=key, required=True, on_change=state.remember, help="What changes along this axis."
            )
        spread = selection.scale()
    layers, runnable = cache.target_layers(model), list(status.index[status.runnable])
    begin = [key for key in (method, "grad_cam", "input_x_gradient", "feature_ablation") if key in runnable]
    classes = [str(k) for k in (target, *rivals) if k != against]
    #: Axis -> what is offered, what it begins with, and the name of each.
    axes: dict[str, tuple[list[str], list[str], Callable[[str], str]]] = {
        "classes": (classes, classes[:3], lambda k: model.classes[int(k)]),
        "methods": (runnable, list(dict.fromkeys(begin)), lambda key: METHODS[key].title),
        "layers": (
            layers,
            list(dict.fromkeys(layers[:: max(1, len(layers) // _LAYERS)][1:_LAYERS] + layers[-1:])),
            str,
        ),
    }
    layered = "layers" in chosen
    with st.container(horizontal=True, gap="large"):
        # Grad-CAM is the only one that has layers.
        rows, columns = (
            ["grad_cam"] if layered and axis == "methods" else _members(axis, *axes[axis]) for axis in chosen
        )
    if not rows or not columns:
        st.info("Choose at least one for the rows and one for the columns.")
        return
    calls = _calls(chosen, rows, columns)
    asks = {
        place: jobs.Ask(
            attribution.attribute,
            model,
            (picture, *arguments),
            _weight(arguments[1]) * cache.cost_estimate(model, arguments[1], **more),
            " · ".join(axes[axis][2](member) for axis, member in zip(chosen, place, strict=True)),
            more,
        )
        for place, (arguments, more) in calls.items()
    }
    found: dict[tuple[str, str], Attribution] = jobs.answers(asks, "The grid of maps")
    if len(found) < len(asks):
        return

    def title(axis: str, member: str, one: Attribution) -> str:
        name = axes[axis][2](member)
        if axis == "classes":
            return name + rival
        if axis == "layers" or not layered:
            at = f"{one.layer}, " if axis == "methods" and one.layer else ""
            return f"{name} ({at}{one.validity})"
        return name

    titles = {place: (title(chosen[0], place[0], one), title(chosen[1], place[1], one)) for place, one in found.items()}
    named = {titles[place]: call for place, call in calls.items()}
    reach = scale.limits([[found[row, column].map for column in columns] for row in rows], spread)
    limits = {titles[row, column]: reach[i][j] for i, row in enumerate(rows) for j, column in enumerate(columns)}
    words.badge(
        "measured", "on this picture" if "classes" in chosen else f"{model.classes[target]}{rival}, on this picture"
    )
    figure.show(
        figures.map_grid({titles[place]: one.map for place, one in found.items()}, limits, under, box=box),
        "attribution-grid",
        f"Maps by {chosen[0]} and {chosen[1]}: " + ", ".join(" · ".join(name) for name in titles.values()),
        {" · ".join(titles[place]).replace("/", "-"): one.map for place, one in found.items()},
        figure.loading(model, picture) + "from analysis.attribution import attribute\n"
        "from analysis.figures.attribution import map_grid\n\n"
        f"calls = {named!r}\nlimits = {limits!r}\n"
        "maps = {\n"
        "    title: attribute(model, x, *arguments, **options).map for title, (arguments, options) in calls.items()\n"
        "}\n"
        f"figure = map_grid(maps, limits, {_code(box)})\n",
    )
    if layered:
        st.caption("Only Grad-CAM has layers, so it is the method of every map here. It is exact at the last one only.")


def _two_models() -> None:
    if result is None or check is None:  # some of its maps may be the same, and are under way there
        st.info("The two maps above come first; compute them, and these follow.")
        return
    others = [
        other
        for other in selection.models()[1:]
        if other.classes == model.classes and other.config.image_size == model.config.image_size
    ]
    if not others:
        st.info("Choose a second model of the same classes and picture size under *Beside it* in the sidebar.")
        return
    state.valid("attribution_other", [other.id for other in others], others[0].id)
    with st.container(horizontal=True, gap="large"):
        other_id = st.selectbox(
            "With",
            [other.id for other in others],
            format_func={other.id: other.title for other in others}.__getitem__,
            key="attribution_other",
            on_change=state.remember,
            help="Of the models beside the first, in the sidebar.",
            width=260,
        )
        state.valid("wipe", range(0, 101, 5), 50)
        st.select_slider(
            "Wipe",
            range(0, 101, 5),
            key="wipe",
            format_func=lambda share: f"{share} %",
            on_change=state.remember,
            help="Left of the line stands the first model's map, right of it the second's.",
            width=320,
        )
    other = next(model for model in others if model.id == other_id)
    # Both maps can lie on the original picture only if both networks see the same part of it.
    on, part = (under, box) if cache.seen(other, picture).box == seen.box else (image, None)
    offered = cache.target_layers(other)
    asks = {}
    for one in (model, other):
        where = layer if layer is None or one is model or layer in offered else offered[-1]
        asks[one.title] = jobs.Ask(
            attribution.attribute,
            one,
            (picture, target, method, where, against),
            _weight(method) * cache.cost_estimate(one, method, **options),
            f"{METHODS[method].title} of {one.title}",
            options,
        )
    found: dict[str, Attribution] = jobs.answers(asks, "The maps of two models")
    if len(found) < 2:
        return
    (first, a), (second, b) = found.items()
    cut = st.session_state["wipe"] / 100
    words.badge("measured", f"{METHODS[method].title} on this picture, both on one scale")
    layers = {title: one.layer for title, one in found.items()}
    code = (
        figure.loading_models([model, other])
        + figure.loading(model, picture)
        + "from analysis.attribution import attribute\nfrom analysis.figures import attribution as figures\n\n"
        f"layers = {layers!r}\n"
        "a, b = (\n"
        f"    attribute(models[title], x, {target}, {method!r}, layer, {against}"
        + "".join(f", {name}={value!r}" for name, value in options.items())
        + ").map\n    for title, layer in layers.items()\n)\n"
    )
    left, right = boxes.beside(310, 590)
    with left:
        figure.show(
            figures.wipe(a.map, b.map, (first, second), cut, on, size=340, box=part),
            "wipe",
            f"{first} left of the line at {cut:.0%}, {second} right of it",
            {"first": a.map, "second": b.map},
            code + f"figure = figures.wipe(a, b, {(first, second)!r}, {cut}, {_code(part)}, size=340)\n",
        )
    with right:
        figure.show(
            figures.difference(a.map, b.map, (first, second), on, size=340, box=part),
            "difference",
            f"{first}, {second} and their difference on one scale",
            {"first": a.map, "second": b.map, "difference": a.map - b.map},
            code + f"figure = figures.difference(a, b, {(first, second)!r}, {_code(part)}, size=340)\n",
        )
    agreement = rank_correlation(a.map, b.map)
    st.markdown(
        "Rank correlation of the two maps: "
        + ("undefined." if np.isnan(agreement) else f"**{agreement:+.2f}**.")
        + (f" {second} has no layer {layer}; its own is {b.layer}." if a.layer != b.layer else "")
    )
    told: dict[str, list[str]] = {}
    for name, found_map in found.items():
        for note in found_map.notes:
            told.setdefault(note, []).append(name)
    for note, names in told.items():
        st.caption(f"{' and '.join(names)}: {note}")


more()
words.misleads(
    "A map explains the network, not the world: a strong map for a wrong class is still a true account of the network.",
    "A surrogate map follows the smooth stand-in that training used for the sign. Where its rank correlation with the "
    "forward-only map is low, do not believe it.",
    "Covering pixels with black is itself a change: in a picture with a black background it takes away, on a white one "
    "it paints a hole.",
    "Deletion, insertion and infidelity show the network pictures with holes, which training never showed; a map can "
    "be right about the picture and still score badly there, and the other way round.",
    "One colour stands for different values where maps have scales of their own: read the numbers on the bars and in "
    "the titles before you compare two maps, or put them on one scale.",
)
