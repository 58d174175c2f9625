"""Branch ledger: what each branch adds to a pre-activation, and what goes when one is switched off."""

import pandas as pd
import streamlit as st

from analysis import branches, sampling
from analysis.figures import branches as figures
from app import cache, jobs, state
from app.cache import ImageSet
from app.widgets import figure, scale, selection, tabs, words

_UPTO = {"norm": "batch norm", "shortcut": "and shortcut", "activation": "and RPReLU"}
_SPLIT = {"branches": "branches", "sources": "tokens read"}
_CHANNELS = {"largest": "largest first", "number": "from the chosen one"}
_REPLACE = {"zero": "nothing", "mean": "its mean"}
_SHARES = {"variance_share": "variance", "magnitude_share": "magnitude"}
#: Channels beside each other.
_MOST = 24
#: The largest residual that 32-bit numbers explain.
_ROUNDING = 1e-5
#: Images over which a branch's mean is taken for a picture.
_REFERENCE = 100

model, picture = selection.chosen()
layers = cache.layers(model)
names = [name for name in layers if layers[name].kind != "mixer"]
mlps = [name for name in names if layers[name].kind == "mlp"]
if not names:
    st.info("This network is made of Mixer blocks, which have no branches; choose another one in the sidebar.")
    st.stop()

st.markdown(
    "A layer's **pre-activation** is a plain sum: what the branches bring, each through the one batch norm behind "
    "them, that norm's bias, and the shortcut. In use the norm is a multiplication and an addition per channel, so the "
    "ledger closes exactly, token by token."
)
if not mlps:
    st.info(
        f"{model.title} has no binary MLPs: each layer has one branch, *conv*, whose taps can be told apart. Choose a "
        "BCDNet in the sidebar to see point, short and long branches.",
        icon=":material/info:",
    )


# -- the ledger -------------------------------------------------------------------------------------------------------


@st.fragment
def book() -> None:
    drawing, controls = selection.drawing_and_controls()
    with controls:
        layer = selection.layer(names, (mlps or names[::-1])[0])
        row, col = selection.token(model, picture, layer)
        upto = state.valid("upto", list(_UPTO), "shortcut")
        st.segmented_control(
            "Up to",
            list(_UPTO),
            format_func=_UPTO.__getitem__,
            key="upto",
            required=True,
            on_change=state.remember,
            help="Where the sum is drawn: behind the batch norm, with the shortcut added, or behind the activation.",
        )
        split = state.valid("split", list(_SPLIT), "branches")
        st.segmented_control(
            "Split into",
            list(_SPLIT),
            format_func=_SPLIT.__getitem__,
            key="split",
            required=True,
            on_change=state.remember,
            help="Branches; or, within each, what comes from every token that it reads: a convolution's taps, an MLP's "
            "quarters of the channels.",
        )
        channels = int(cache.ask(sampling.layers, model).set_index("name").channels[layer])
        state.valid("channel", range(channels), 0)
        channel = int(
            st.number_input(
                "Channel",
                0,
                channels - 1,
                step=1,
                key="channel",
                on_change=state.remember,
                help=f"One of the layer's {channels} channels: its maps, and the first one drawn in order.",
            )
        )
        order = state.valid("channels", list(_CHANNELS), "largest")
        st.segmented_control(
            "Channels shown",
            list(_CHANNELS),
            format_func=_CHANNELS.__getitem__,
            key="channels",
            required=True,
            on_change=state.remember,
            help=f"Which {_MOST} of the token's channels are drawn.",
        )
    sources = split == "sources"
    entry = cache.ask(branches.ledger_entry, model, picture, layer, row, col, channel, upto, sources)
    shown = None if order == "largest" else list(range(channel, min(channel + _MOST, channels)))
    code = (
        figure.loading(model, picture)
        + "from analysis import branches\nfrom analysis.figures import branches as figures\n\n"
        + f"entry = branches.ledger_entry(model, x, {layer!r}, {row}, {col}, {channel}, {upto!r}, {sources})\n"
    )
    place = f"row {row}, column {col} of {layer}"
    with drawing:
        words.badge("measured", "on the picture in the sidebar, in one forward pass")
        tabs.show(
            "book_tab",
            {
                "The token": lambda: _token(entry, shown, place, code),
                "One channel over all tokens": lambda: _maps(entry, (row, col), f"channel {channel} of {layer}", code),
                "The token as a table": lambda: st.dataframe(
                    entry.token, hide_index=True, alt=f"Every term of all {channels} channels of {place}"
                ),
            },
        )
        st.markdown(
            f"**Residual {words.scientific(entry.residual)}**: nowhere in the layer are the sums further than "
            "this from what the network itself computed, as a share of its largest value. "
            + ("That is rounding; nothing is left over." if entry.residual <= _ROUNDING else "That is too much.")
        )
    state.publish()


def _token(entry: branches.Entry, shown: list[int] | None, place: str, code: str) -> None:
    figure.show(
        figures.token_ledger(entry.token, shown),
        "ledger",
        f"What adds up at {place}, by channel: " + ", ".join(entry.token.columns[1:-1]),
        entry.token,
        f"{code}figure = figures.token_ledger(entry.token, {shown!r})\n",
    )


def _maps(entry: branches.Entry, at: tuple[int, int], what: str, code: str) -> None:
    rows = branches.term_rows(entry.channel)
    limits = scale.limits([list(maps.values()) for maps in rows], selection.scale())
    figure.show(
        figures.term_maps(rows, limits, at),
        "terms",
        f"Maps of the terms of {what}, with row {at[0]}, column {at[1]} marked",
        entry.channel,
        f"{code}rows = branches.term_rows(entry.channel)\nfigure = figures.term_maps(rows, {limits!r}, {at})\n",
    )
    st.caption("Red adds, blue takes away; *total* is what the network itself computed.")


book()

# -- switches ---------------------------------------------------------------------------------------------------------

listed = {" ".join(switch): switch for switch in cache.ask(branches.switches, model)}


def _labels(images: ImageSet, n: int) -> tuple[int, ...] | None:
    try:
        return tuple(images.labels(model)[:n].tolist())
    except ValueError:
        return None


def _choose() -> tuple[branches.Switch, ...]:
    """The branches that are switched off."""
    default = [name for name, (_, branch) in listed.items() if branch != "conv"][-1:] or [f"{names[-1]} conv"]
    state.several("off", list(listed), default, len(listed))
    off = st.pills(
        "Switched off",
        list(listed),
        selection_mode="multi",
        key="off",
        on_change=state.remember,
        help="A branch of one layer, or of all layers that have it. Several together are off together.",
    )
    return tuple(listed[name] for name in off)


def _replaced() -> str:
    replace = state.valid("replace", list(_REPLACE), "zero")
    st.segmented_control(
        "In its place",
        list(_REPLACE),
        format_func=_REPLACE.__getitem__,
        key="replace",
        required=True,
        on_change=state.remember,
        help="Nothing (zero ablation), or each channel's mean over the images of the set (mean ablation), which is "
        "what the batch norm behind it expects.",
    )
    return replace


def _picture(off: tuple[branches.Switch, ...], replace: str) -> None:
    reference, loading, given = None, "", ""
    if replace == "mean":
        images = selection.images()
        if images is None:
            return
        n = min(_REFERENCE, len(images))
        reference, loading, given = images.first(n), figure.loading_images(images, n), ", images"
    effect = jobs.answer(
        branches.switch_effect,
        model,
        picture,
        off,
        reference,
        forwards=2 + (reference.n if reference is not None else 0),
        what="This picture without these branches",
    )
    if effect is None:
        return
    before, after = int(effect.before.argmax()), int(effect.after.argmax())
    was, now = f"{effect.p_before[before]:.1%}", f"{effect.p_after[after]:.1%}"
    first, second = f"**{model.classes[before]}**", f"**{model.classes[after]}**"
    told = f"{first} stays the likeliest class, from {was} to {now}."
    if before != after:
        told = f"The likeliest class changes from {first} ({was}) to {second} ({now})."
    words.badge("measured", "on the picture in the sidebar")
    st.markdown(told)
    figure.show(
        figures.effect_bars(effect, model.classes),
        "switched-off",
        f"Likeliest classes before and after. {told}".replace("**", ""),
        effect.assign(label=model.classes),
        figure.loading(model, picture) + loading + "from analysis.branches import switch_effect\n"
        "from analysis.figures.branches import effect_bars\n\n"
        f"effect = switch_effect(model, x, {off!r}{given})\n"
        f"figure = effect_bars(effect, {model.classes!r})\n",
    )


def _accuracy(off: tuple[branches.Switch, ...], replace: str) -> None:
    images = selection.images()
    if images is None:
        return
    if not off:
        st.info("Nothing is switched off, so nothing changes.")
        return
    n = selection.count(images, 200)
    labels = _labels(images, n)
    found = jobs.answer(
        branches.knockout,
        model,
        images.first(n),
        labels,
        (off,),
        replace,
        forwards=cache.ask(branches.knockout_passes, model, n, (off,)),
        what="Accuracy without these branches",
    )
    if found is None:
        return
    result = found.table.iloc[0]
    words.badge("measured", f"on the first {n:,} images of {images.title}")
    with st.container(horizontal=True):
        if labels is not None:
            st.metric(
                "Top-1",
                f"{result.top1:.1f} %",
                f"{result.difference:+.1f} points",
                help=f"As it is {found.top1:.1f} % (95 %: {found.low:.1f} to {found.high:.1f}); so "
                f"{result.low:.1f} to {result.high:.1f}.",
            )
            st.metric("Turn wrong", int(result.broken), help="Images that were classified right before.")
            st.metric("Turn right", int(result.mended), help="Images that were classified wrong before.")
            st.metric(
                "p", f"{result.p:.2g}", help="Exact McNemar test: could as many have turned either way by chance?"
            )
        st.metric("Change class", int(result.changed), help="Images whose predicted class changes, right or wrong.")
    if labels is None:
        st.caption("The true classes of these images are not known, so only changes can be counted.")


def _alone(replace: str) -> None:
    images = selection.images()
    if images is None:
        return
    n = selection.count(images, 200)
    labels = _labels(images, n)
    found = jobs.answer(
        branches.knockout,
        model,
        images.first(n),
        labels,
        None,
        replace,
        forwards=cache.ask(branches.knockout_passes, model, n),
        what="Every branch switched off alone",
    )
    if found is None:
        return
    column = "changed" if labels is None else "difference"
    worst = found.table.sort_values(column, ascending=labels is not None).iloc[0]
    words.badge("measured", f"on the first {n:,} images of {images.title}, {_REPLACE[replace]} in the branch's place")
    given = f"labels, replace={replace!r}" if labels is not None else f"replace={replace!r}"
    figure.show(
        figures.knockout_heatmap(found, column),
        "knock-outs",
        f"What switching off each branch of each layer alone does to {n:,} images; most without {worst['name']}",
        found.table,
        figure.loading(model)
        + figure.loading_images(images, n, labels is not None)
        + "from analysis.branches import knockout\n"
        "from analysis.figures.branches import knockout_heatmap\n\n"
        f"found = knockout(model, images, {given})\n"
        f"figure = knockout_heatmap(found, {column!r})\n",
    )
    if labels is not None:
        st.caption(
            f"As it is, the network gets {found.top1:.1f} % right (95 %: {found.low:.1f} to {found.high:.1f}). With "
            f"{len(found.table)} tests of {n:,} images each, some small changes look sure by chance: a p of 0.05 here "
            f"means as much as {0.05 * len(found.table):.1f} false alarms."
        )
    with st.expander("The same as a table", icon=":material/table:"):
        st.dataframe(found.table, hide_index=True, alt="Changes, accuracy and McNemar test for every branch alone")


def _shares() -> None:
    images = selection.images()
    if images is None:
        return
    n = selection.count(images, 200)
    measure = state.valid("share", list(_SHARES), "variance_share")
    st.segmented_control(
        "Share of",
        list(_SHARES),
        format_func=_SHARES.__getitem__,
        key="share",
        required=True,
        on_change=state.remember,
        help="Of the variance: what makes pre-activations differ between pictures and places. Of the magnitude: how "
        "large the terms are, whether or not they ever change.",
    )
    shares: pd.DataFrame | None = jobs.answer(
        branches.branch_shares, model, images.first(n), forwards=branches.shares_passes(n), what="Shares of the terms"
    )
    if shares is None:
        return
    words.badge("measured", f"over the first {n:,} images of {images.title}")
    figure.show(
        figures.share_bars(shares, measure),
        "shares",
        f"Share of every term in the {_SHARES[measure]} of each layer's pre-activations",
        shares,
        figure.loading(model) + figure.loading_images(images, n) + "from analysis.branches import branch_shares\n"
        "from analysis.figures.branches import share_bars\n\n"
        f"figure = share_bars(branch_shares(model, images), {measure!r})\n",
    )


@st.fragment
def switchboard() -> None:
    off, replace = _choose(), _replaced()
    tabs.show(
        "ledger_tab",
        {
            "This picture": lambda: _picture(off, replace),
            "Accuracy": lambda: _accuracy(off, replace),
            "Every branch alone": lambda: _alone(replace),
            "Shares": _shares,
        },
    )
    state.publish()


st.subheader("Switch branches off")
switchboard()

words.misleads(
    "The ledger says what was added, not what mattered: behind it stand an activation, later signs and later layers. "
    "For what matters, switch the branch off.",
    "A branch that is switched off leaves the batch norm with statistics it never saw, and all later layers with maps "
    "they were not trained for. The network would have learnt to do without; train a variant without the branch to "
    "know how well. With *its mean* in its place the norm keeps its mean at least.",
    "Branches can stand in for one another: two may do nothing alone and much together, and everywhere is more than "
    "the sum of the layers.",
    "Shares of the variance can be below zero, where a term runs against the sum of all. They then add up to 100 % "
    "with others above it.",
    "A few hundred images tell large changes of accuracy only: look at the interval and at how many turn either way.",
)
