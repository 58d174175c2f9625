"""Receptive fields: what can reach a location, and how much it does."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from analysis import receptive_field
from analysis.figures import receptive_field as figures
from analysis.receptive_field import CONVOLUTIONS, ERF
from app import cache, jobs, state
from app.cache import ImageSet, Layer, Model
from app.widgets import figure, scale, selection, tabs, words

_BEYOND = {"wrap-round": "reached only round the border", "convolutions": "not reached by convolutions alone"}
_METHODS = {"gradient": ["gradient"], "perturbation": ["perturbation"], "both": ["gradient", "perturbation"]}
#: Images that an effective field is averaged over.
_IMAGES = (16, 64, 256)

model, picture = selection.chosen()
models = selection.models()
layers = cache.layers(model)
names = list(layers)
mlps = [name for name in names if layers[name].kind == "mlp"]
image = np.asarray(cache.seen(model, picture).image)

#: A layer and the row and column of a token of its output map.
Token = tuple[str, int, int]

st.markdown(
    "The **exact** receptive field is the set of pixels that can reach one location of a layer. The **effective** one "
    "says how much each of them does. Long-range branches make the first jump across the whole picture: cyclic shifts "
    "come back in on the opposite side, so it is a set on a torus and not a box."
)


def _counterpart(other: Model, layer: str, row: int, col: int) -> Token:
    """Where another network has most the same token: in the layer of this name, else in the last of this map size."""
    here, theirs = layers[layer], cache.layers(other)
    alike = [name for name, about in theirs.items() if (about.height, about.width) == (here.height, here.width)]
    name = layer if layer in theirs else (alike or list(theirs))[-1]
    return name, *_over(here, theirs[name], row, col)


def _over(here: Layer, there: Layer, row: int, col: int) -> tuple[int, int]:
    """The token of one map that lies over the middle of a token of another."""
    return (2 * row + 1) * there.height // (2 * here.height), (2 * col + 1) * there.width // (2 * here.width)


# -- what can reach it ------------------------------------------------------------------------------------------------


@st.fragment
def explore() -> None:
    drawing, controls = selection.drawing_and_controls()
    with controls:
        layer = selection.layer(
            names,
            mlps[0] if mlps else names[-1],
            help="The field belongs to a location of this layer's output map.",
        )
        row, col = selection.token(model, picture, layer)
        first, beyond = _paths(layer)
        field = _field(layer, row, col, first, beyond)
        _numbers(field)
    with drawing:
        tabs.show(
            "field_tab",
            {
                "What can reach it": lambda: _reach(field, f"row {row}, column {col} of {layer}", beyond),
                "From layer to layer": lambda: _growth(layer, row, col),
                "How much each pixel counts": lambda: _counts(layer, row, col),
            },
        )
    state.publish()


def _paths(layer: str) -> tuple[str, str]:
    """Controls: the branch that the paths take first, "all" for any, and the key of what is set apart in colour."""
    branches = layers[layer].branches
    ways = ["all", *branches, "shortcut"] if layers[layer].kind != "mixer" else ["all"]
    first = state.valid("field_branch", ways, "all")
    st.segmented_control(
        "First step through",
        ways,
        key="field_branch",
        required=True,
        on_change=state.remember,
        help="The branch of this layer that the paths take first; below it they take every branch and shortcut.",
    )
    beyond = state.valid("field_beyond", list(_BEYOND), "wrap-round")
    st.segmented_control(
        "In the second colour",
        list(_BEYOND),
        format_func={"wrap-round": "only round the border", "convolutions": "not by convolutions"}.__getitem__,
        key="field_beyond",
        required=True,
        on_change=state.remember,
        help="Pixels that are reached only by paths that leave the map and come back in on the other side, or those "
        "that the same network would not reach if its MLPs read their own token alone.",
    )
    return first, beyond


@dataclass(frozen=True)
class _Field:
    """What can reach one location: pixels (H, W) by any of the chosen paths, by those that stay ``inside`` the map, by
    convolutions ``alone``, and those in the ``inner`` colour; and the calls that give the first and the last."""

    pixels: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    alone: NDArray[np.bool_]
    inner: NDArray[np.bool_]
    call: str
    inner_call: str


def _field(layer: str, row: int, col: int, first: str, beyond: str) -> _Field:
    exact, branch = receptive_field.exact_receptive_field, receptive_field.branch_receptive_field
    alone = cache.ask(exact, model, layer, row, col, kinds=CONVOLUTIONS)
    if first == "all":
        pixels, call = cache.ask(exact, model, layer, row, col), f"exact_receptive_field(model, {layer!r}, {row}, {col}"
        inside = cache.ask(exact, model, layer, row, col, wrap=False)
    else:
        pixels = cache.ask(branch, model, layer, first, row, col)
        inside = cache.ask(branch, model, layer, first, row, col, wrap=False)
        call = f"branch_receptive_field(model, {layer!r}, {first!r}, {row}, {col}"
    if beyond == "convolutions":
        inner, other = pixels & alone, f"exact_receptive_field(model, {layer!r}, {row}, {col}, kinds='P') & field"
    else:
        inner, other = inside, f"{call}, wrap=False)"
    return _Field(pixels, inside, alone, inner, f"{call})", other)


def _numbers(field: _Field) -> None:
    with st.container(horizontal=True):
        st.metric(
            "Of the picture",
            f"{field.pixels.mean():.1%}",
            help=f"{field.pixels.sum():,} of {field.pixels.size:,} pixels can reach this location.",
        )
        st.metric(
            "By wrapping",
            f"{(field.pixels & ~field.inside).sum() / field.pixels.sum():.1%}",
            help="Share of the set that is reached only by paths that leave the map and come back in.",
        )
        st.metric(
            "Convolutions",
            f"{field.alone.mean():.1%}",
            help="Share of the picture that would be reached if the MLPs read their own token alone.",
        )
    if model.config.embedding_ratio and field.alone.all():
        st.caption("A context embedding averages the whole map, so every pixel reaches every location from there.")


def _reach(field: _Field, place: str, beyond: str) -> None:
    words.badge("computed", "exact for the architecture; no weights, no rounding")
    second = field.pixels & ~field.inner
    figure.show(
        figures.receptive_set(field.pixels, field.inner, image, _BEYOND[beyond]),
        "exact-field",
        f"{field.pixels.mean():.0%} of the pixels can reach {place}; {second.mean():.0%} are {_BEYOND[beyond]}.",
        {"field": field.pixels, "second_colour": second},
        figure.loading(model, picture) + "from analysis.figures.receptive_field import receptive_set\n"
        "from analysis.receptive_field import branch_receptive_field, exact_receptive_field\n\n"
        f"field = {field.call}\n"
        f"inner = {field.inner_call}\n"
        f"figure = receptive_set(field, inner, image, {_BEYOND[beyond]!r})\n",
    )


def _growth(layer: str, row: int, col: int) -> None:
    """How the fields of all models grow, for the last map's token over the same place."""
    tokens = {other: _over(layers[layer], list(cache.layers(other).values())[-1], row, col) for other in models}
    growths = {
        other.title: cache.ask(receptive_field.receptive_field_growth, other, *token) for other, token in tokens.items()
    }
    ids = {other.title: other.id for other in models}
    fields = "".join(
        f"    {other.title!r}: receptive_field_growth(models[{other.title!r}], {token[0]}, {token[1]}),\n"
        for other, token in tokens.items()
    )
    words.badge("computed", "exact for the architectures")
    figure.show(
        figures.growth_curve(growths, ids, size=460),
        "field-growth",
        "Share of the picture that one location can see, growing from layer to layer: at the end "
        + ", ".join(f"{100 * growth['share'].iloc[-1]:.0f} % in {title}" for title, growth in growths.items()),
        pd.concat([growth.assign(model=title) for title, growth in growths.items()]),
        figure.loading_models(models) + "from analysis.figures.receptive_field import growth_curve\n"
        "from analysis.receptive_field import receptive_field_growth\n\n"
        f"growths = {{\n{fields}}}\n"
        f"figure = growth_curve(growths, {ids!r}, size=460)\n",
    )
    st.caption(
        "For the location of each last map over the same place of the picture. Dotted: without going round the "
        "border. Dashed: convolutions alone, as if the MLPs read their own token only."
    )


# -- how much each pixel counts ---------------------------------------------------------------------------------------


def _counts(layer: str, row: int, col: int) -> None:
    if (images := selection.images()) is not None:
        _effective({other.title: (other, _counterpart(other, layer, row, col)) for other in models}, images)


def _effective(tokens: dict[str, tuple[Model, Token]], images: ImageSet) -> None:
    chosen, n, scope, log = _choices(images)
    asks = {
        (method, title): jobs.Ask(
            receptive_field.effective_receptive_field,
            other,
            (images.first(n), *token, method),
            # A gradient costs about as much as three passes.
            (3 if method == "gradient" else 1) * cache.ask(receptive_field.passes, other, n, method),
            f"{title}, {method}",
        )
        for method in chosen
        for title, (other, token) in tokens.items()
    }
    found: dict[tuple[str, str], ERF] = jobs.answers(asks, "Effective fields")
    if not found:
        return
    words.badge("measured", f"mean over {n:,} images of {images.title}")
    rows = [[found[key].map if key in found else None for key in asks if key[0] == method] for method in chosen]
    limits = scale.limits(rows, scope)
    for k, method in enumerate(chosen):
        for start in range(0, len(tokens), 2):
            # Two beside each other, so that they can be read on a narrow screen too.
            for column, title in zip(st.columns(2), list(tokens)[start : start + 2], strict=False):
                if (method, title) in found:
                    limit = limits[k][list(tokens).index(title)]
                    with column:
                        _map(tokens[title][0], found[method, title], images, n, limit, log)
    _table(found)


def _choices(images: ImageSet) -> tuple[list[str], int, scale.Scope, bool]:
    """Controls: methods, number of images, scope of the colours, and whether they are logarithmic."""
    with st.container(horizontal=True, gap="large"):
        method = state.valid("erf_method", list(_METHODS), "gradient")
        st.segmented_control(
            "Measured by",
            list(_METHODS),
            required=True,
            key="erf_method",
            on_change=state.remember,
            help="Gradient: fast, but it follows the smooth stand-in of the sign. Perturbation: changes blocks "
            "of pixels and runs the network forward, exact but slow.",
        )
        n = state.valid("erf_images", _IMAGES, _IMAGES[0])
        st.select_slider(
            "Images",
            _IMAGES,
            key="erf_images",
            on_change=state.remember,
            help="The field is the mean over this many images, from the beginning of the set.",
        )
        scope = selection.scale()
        log = state.valid("erf_log", [False, True], False)
        st.toggle(
            "Logarithmic colours",
            key="erf_log",
            on_change=state.remember,
            help="Show four decades, so that faint pixels are seen.",
        )
    return _METHODS[method], min(n, len(images)), scope, log


def _map(other: Model, erf: ERF, images: ImageSet, n: int, limit: float, log: bool) -> None:
    field = cache.ask(receptive_field.exact_receptive_field, other, erf.layer, erf.row, erf.col)
    st.markdown(f"**{other.title}** · {erf.method}")
    if not erf.map.any():
        st.info(f"None of the {erf.n} images lets any pixel move row {erf.row}, column {erf.col} of {erf.layer}.")
        return
    where = f"{erf.layer!r}, {erf.row}, {erf.col}"
    figure.show(
        figures.erf_heatmap(erf, field, limit, log, size=390),
        f"effective-field-{other.id}-{erf.method}",
        f"Effective receptive field of row {erf.row}, column {erf.col} of {erf.layer} in {other.title} by "
        f"{erf.method}: half of the effect comes from {erf.area[50]:.0%} of the pixels",
        {"effective": erf.map, "exact": field},
        figure.loading(other) + "from analysis.figures.receptive_field import erf_heatmap\n"
        "from analysis.receptive_field import effective_receptive_field, exact_receptive_field\n"
        + figure.loading_images(images, n)
        + f"erf = effective_receptive_field(model, images, {where}, {erf.method!r})\n"
        f"field = exact_receptive_field(model, {where})\n"
        f"figure = erf_heatmap(erf, field, {limit!r}, {log}, size=390)\n",
    )
    if field.all():
        st.caption("Every pixel can reach this location, so the exact set has no border.")


def _table(found: dict[tuple[str, str], ERF]) -> None:
    rows = []
    for (method, title), erf in found.items():
        gradient, perturbation = (found.get((other, title)) for other in _METHODS["both"])
        rows.append(
            {
                "model": title,
                "by": method,
                "token": f"{erf.layer} ({erf.row}, {erf.col})",
                **{f"{share} %": 100 * erf.area[share] for share in (20, 50, 90)},
                "inside": 100 * erf.inside,
                "wrapped": 100 * erf.wrapped,
                "agreement": receptive_field.agreement(gradient, perturbation) if gradient and perturbation else None,
            }
        )
    percent = st.column_config.NumberColumn
    st.markdown("The smaller these shares, the fewer pixels the location listens to.")
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config={
            **{
                f"{share} %": percent(
                    f"area of {share} %", format="%.1f %%", help=f"Fewest pixels that hold {share} % of the effect."
                )
                for share in (20, 50, 90)
            },
            "inside": percent("in the exact set", format="%.1f %%", help="Share of the effect inside the exact set."),
            "wrapped": percent(
                "round the border",
                format="%.1f %%",
                help="Share of the effect that is gone when tokens from beyond the border are held still; below 0 "
                "where they weaken it.",
            ),
            "agreement": percent(
                "surrogate agrees",
                format="%+.2f",
                help="Rank correlation of the gradient's map with the perturbation's, over the blocks of pixels that "
                "were changed; measure by both to see it.",
            ),
        },
        alt="Areas of the effective fields, their share inside the exact set and round the border, by model and method",
    )


explore()
words.misleads(
    "The exact field says what *can* matter. Most of its pixels may hardly do: compare with the effective field.",
    "The gradient passes through signs with the training surrogate, 2−2|x| inside [−1, 1], which is not the slope of "
    "a sign. Where both methods disagree, believe the perturbation.",
    "A perturbed block is set to the mean colour. In pictures with a black background that adds something as well as "
    "taking something away.",
    "The effective field belongs to these images; other pictures give another one.",
    "What goes round the border is told by holding it still: its own effect and its interplay with all else go "
    "together. In a deep network most paths take a way round somewhere, so the share is large also in the middle.",
    "Networks without a layer of the chosen name show the last one with a map of the same size; the table names it.",
    "A context embedding averages over the whole map, so in BCDNet-B every pixel can reach every location.",
)
