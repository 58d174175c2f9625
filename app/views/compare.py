"""Compare variants: up to four models on one set of images: what is luck, what is known of their confidence, and where
they part."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from scipy.special import softmax

from analysis import comparison, tradeoffs
from analysis.comparison import Comparison
from analysis.figures import comparison as figures
from app import cache, jobs, state
from app.cache import ImageSet
from app.widgets import figure, selection, words

#: Logits (n, classes) by title of the model, classes in the order of the first one's.
Logits = dict[str, NDArray[np.float64]]

#: Images asked about at first, or if the reader wants.
_SIZES = (500, 2000, 10_000)
#: Images on one page of the gallery, and the side of their thumbnails in pixels.
_PAGE, _SIDE = 12, 112
#: Width of what stands side by side where there is room, in pixels.
_HALF = 450
_VIEWS = {"gallery": "Where they part", "classes": "Class by class", "calibration": "Calibration", "roc": "ROC"}

models = selection.models()
by_title = {model.title: model for model in models}
ids = {model.title: model.id for model in models}

st.markdown(
    "The same images go through the network of the sidebar and up to three *beside it*. How much of a difference is "
    "luck, how far each one's confidence can be trusted, and on which images they part is counted here."
)


# -- what the models say ----------------------------------------------------------------------------------------------


def _comparable() -> dict[str, NDArray[np.int64]]:
    """The models that tell the same classes apart, and the order of their logits; a sentence for each other one."""
    orders, others = comparison.alike({title: model.classes for title, model in by_title.items()})
    for sentence in others.values():
        st.info(sentence, icon=":material/difference:")
    first = models[0].config
    for title in orders:
        config = by_title[title].config
        if (config.image_size, config.in_channels) != (first.image_size, first.in_channels):
            (height, width), colour = config.image_size, "in colour" if config.in_channels == 3 else "in grey"
            st.caption(f":material/info: {title} is given the images at {width} × {height} pixels, {colour}.")
    return orders


def _asks(orders: Mapping[str, NDArray[np.int64]], images: ImageSet, n: int) -> dict[str, jobs.Ask]:
    """What each model is asked."""
    return {
        title: jobs.Ask(
            comparison.predict_set, by_title[title], (images.batches(n),), n, f"{title}, {n:,} images", {"total": n}
        )
        for title in orders
    }


def _logits(orders: Mapping[str, NDArray[np.int64]], images: ImageSet, n: int) -> Logits:
    """Logits of the models that are done; for the others the work begins, once the reader agrees to what it costs."""
    found = jobs.answers(_asks(orders, images, n), f"{n:,} images through each network")
    return {title: logits[:, orders[title]] for title, logits in found.items()}


def _kept(what: str, logits: Logits, images: ImageSet, n: int, *more: Any) -> tuple[Any, ...]:
    """Under what the answer to a question about the logits is kept."""
    return what, *((title, by_title[title].key) for title in logits), images.key, n, *more


def _code(logits: Logits, images: ImageSet, n: int, orders: Mapping[str, NDArray[np.int64]]) -> str:
    """Python that makes the ``logits`` and the ``labels`` again."""
    files = {title: cache.checkpoint_name(by_title[title]) for title in logits}
    turned = {
        title: orders[title].tolist() for title in logits if not np.array_equal(np.sort(orders[title]), orders[title])
    }
    return (
        "from itertools import islice\n\nimport bcdnet\n"
        "from analysis.comparison import calibration, compare, predict_set, roc\n"
        "from analysis.figures import comparison as figures\n"
        "from bcdnet.data import Preprocess\n"
        f"{cache.opening(images)}"
        f"files = {files!r}\nids = { {title: ids[title] for title in logits}!r}\n"
        "logits = {}\n"
        "for title, path in reversed(files.items()):\n"
        "    model = bcdnet.load(path)\n"
        "    how = Preprocess.from_dict(model.card['preprocess'])\n"
        f"    logits[title] = predict_set(model, islice(data.batches(how, {cache.BATCH}), "
        f"{math.ceil(n / cache.BATCH)}))[:{n}]\n"
        "logits = {title: logits[title] for title in files}\n"
        + "".join(f"logits[{title!r}] = logits[{title!r}][:, {order}]\n" for title, order in turned.items())
        + "classes = model.card['classes']\n"
        "places = data.class_indices(classes)\n"
        f"labels = [places[k] for k in data.labels[:{n}]]\n"
    )


# -- accuracy ---------------------------------------------------------------------------------------------------------


def _accuracy(result: Comparison, alone: bool, code: str) -> None:
    figure.show(
        figures.accuracy_whiskers(result.accuracy, ids),
        "accuracy",
        "Top-1 accuracy with 95 % confidence intervals: "
        + ", ".join(f"{title} {row.top1:.1f} %" for title, row in result.accuracy.iterrows()),
        result.accuracy.reset_index(),
        code + "figure = figures.accuracy_whiskers(compare(logits, labels, classes).accuracy, ids)\n",
    )
    if alone:
        st.caption("Put another model beside this one in the sidebar to see which differences are luck.")
    if not len(result.mcnemar):
        return
    st.markdown("**Are the differences more than luck?**")
    same = [result.agreement.loc[a, b] for a, b in result.mcnemar[["model_a", "model_b"]].to_numpy()]
    st.dataframe(
        result.mcnemar.assign(same=same),
        hide_index=True,
        column_config={
            "model_a": "Model A",
            "model_b": "Model B",
            "only_a": st.column_config.NumberColumn("only A right", help="Images that A gets right, B does not."),
            "only_b": st.column_config.NumberColumn("only B right", help="Images that B gets right, A does not."),
            "difference": st.column_config.NumberColumn("A − B", format="%+.2f %%", help="Difference of top-1."),
            "p": st.column_config.NumberColumn("p", format="%.3g", help="Exact McNemar test: the chance of so uneven "
                                               "a split if both were equally good."),
            "p_holm": st.column_config.NumberColumn("p, all pairs", format="%.3g", help="Holm's correction for "
                                                    "looking at several pairs at once."),
            "same": st.column_config.NumberColumn("same answer", format="%.1f %%", help="Right or wrong alike."),
        },
        alt="Pairwise differences of the models, with exact McNemar tests",
    )  # fmt: skip


def _cards() -> None:
    """What the models' own cards say, until something is counted here."""
    about = tradeoffs.measured_results([(m.id, m.title, m.config, m.card) for m in models]).dropna(subset=["top1", "n"])
    if about.empty or about.dataset.nunique() > 1:
        return
    words.badge("measured", f"on {int(about.n.max()):,} test images, from the models' cards")
    table = about.set_index("title")[["top1", "low", "high", "n"]]
    table = table.assign(correct=(table.top1 * table.n / 100).round())
    figure.show(
        figures.accuracy_whiskers(table, ids),
        "accuracy-cards",
        "Top-1 accuracy with 95 % confidence intervals, as the models' cards have it",
        table.reset_index(),
        "import pandas as pd\n\nfrom analysis.figures.comparison import accuracy_whiskers\n\n"
        f"table = pd.DataFrame({table.to_dict('list')!r}, {list(table.index)!r})\n"
        f"figure = accuracy_whiskers(table, { {title: ids[title] for title in table.index}!r})\n",
    )


# -- class by class ---------------------------------------------------------------------------------------------------


def _classes(result: Comparison, code: str) -> None:
    row = st.container(horizontal=True)  # in a narrow window one below the other
    with row.container(width=_HALF):
        st.markdown("**Hardest class on top**")
        figure.show(
            figures.per_class_dots(result.per_class, ids),
            "per-class",
            "Accuracy of every model on every class",
            result.per_class,
            code + "figure = figures.per_class_dots(compare(logits, labels, classes).per_class, ids)\n",
        )
    with row.container(width=_HALF):
        titles = list(result.confusion)
        state.valid("confused", titles, titles[0])
        title = st.selectbox(
            "What one model takes for what", titles, key="confused", on_change=state.remember,
            help="Whose mistakes are counted, class by class.",
        )  # fmt: skip
        figure.show(
            figures.confusion_heatmap(result.confusion[title]),
            "confusion",
            f"Confusion matrix of {title}: true classes in rows, predicted ones in columns",
            result.confusion[title].reset_index(),
            code + f"figure = figures.confusion_heatmap(compare(logits, labels, classes).confusion[{title!r}])\n",
        )


# -- calibration ------------------------------------------------------------------------------------------------------


def _calibration(logits: Logits, labels: NDArray[np.int64], images: ImageSet, n: int, code: str) -> None:
    options = [5, 10, 15, 20, 30]
    state.valid("bins", options, 15)
    bins = st.select_slider(
        "Bins", options, key="bins", on_change=state.remember, width=_HALF,
        help="Images are put together by how sure the model is, in so many bins of equal width.",
    )  # fmt: skip
    found = {title: _calibrated(title, values, labels, images, n, bins) for title, values in logits.items()}
    figure.show(
        figures.reliability_diagram(found, ids),
        "reliability",
        "How often each model is right by how sure it is: "
        + ", ".join(f"{title} is {c.ece:.1f} % off on average" for title, c in found.items()),
        pd.concat([c.table.assign(model=title) for title, c in found.items()]),
        code + f"found = {{title: calibration(values, labels, {bins}) for title, values in logits.items()}}\n"
        "figure = figures.reliability_diagram(found, ids)\n",
    )
    interval = "95 % interval: basic bootstrap over the images, 1,000 draws."
    st.dataframe(
        pd.DataFrame([{"model": title, "ece": c.ece, "low": c.low, "high": c.high} for title, c in found.items()]),
        hide_index=True,
        column_config={
            "model": "Model",
            "ece": st.column_config.NumberColumn("ECE (%)", format="%.2f", help="Expected calibration error: how far "
                                                 "confidence and accuracy are apart, on average over images."),
            "low": st.column_config.NumberColumn("from", format="%.2f", help=interval),
            "high": st.column_config.NumberColumn("to", format="%.2f", help=interval),
        },
        alt="Expected calibration error of every model with its interval",
    )  # fmt: skip
    st.caption(
        f"ECE is the mean over images of |accuracy − confidence| of their bin, {bins} bins of equal width. Few images "
        "make it too large by chance, which the interval allows for: it may end below it."
    )


def _calibrated(
    title: str, values: NDArray[np.float64], labels: NDArray[np.int64], images: ImageSet, n: int, bins: int
) -> comparison.Calibration:
    key = _kept("calibration", {title: values}, images, n, bins)
    return cache.remember(key, lambda: comparison.calibration(values, labels, bins))


# -- one class to be found --------------------------------------------------------------------------------------------


def _roc(logits: Logits, labels: NDArray[np.int64], images: ImageSet, n: int, code: str) -> None:
    names = models[0].classes
    # Of two classes the second is the one to be found, as `bcdnet evaluate` has it.
    positive = state.valid("roc_class", range(len(names)), 1)
    st.selectbox(
        "Class to be found", range(len(names)), format_func=names.__getitem__, key="roc_class",
        on_change=state.remember, width=_HALF, help="Against all other classes, by its log odds.",
    )  # fmt: skip
    found = {
        title: cache.remember(
            _kept("roc", {title: values}, images, n, positive),
            partial(comparison.roc, values, labels, positive),
        )
        for title, values in logits.items()
    }
    figure.show(
        figures.roc_curves(found, ids),
        "roc",
        f"How many images of {names[positive]} are found against false alarms: area "
        + ", ".join(f"{curve.auc:.1f} % for {title}" for title, curve in found.items()),
        pd.concat([curve.table.assign(model=title) for title, curve in found.items()]),
        code + f"found = {{title: roc(values, labels, {positive}) for title, values in logits.items()}}\n"
        "figure = figures.roc_curves(found, ids)\n",
    )
    one = next(iter(found.values()))
    st.caption(
        f"{one.positive:,} images of {names[positive]} against {one.negative:,} others. The mark is where the model "
        "itself draws the line, at even odds."
    )


# -- gallery ----------------------------------------------------------------------------------------------------------


def _gallery(table: pd.DataFrame, logits: Logits, orders: Mapping[str, NDArray[np.int64]], images: ImageSet) -> None:
    titles, names = list(logits), models[0].classes
    labelled = "label" in table
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if labelled:
            there = sorted({int(label) for label in table.label})
            classes = ["all classes", *(names[k] for k in there)]
            state.valid("gallery_class", classes, classes[0])
            wanted = st.selectbox(
                "True class", classes, key="gallery_class", on_change=state.remember, help="Show images of one class."
            )
            if wanted != classes[0]:
                table = table[table.label == names.index(wanted)]
            counts = table["right"].value_counts()
            patterns = ["any", *sorted(map(str, counts.index), reverse=True)]
            state.valid("gallery_right", patterns, "any")
            pattern = st.selectbox(
                "Right and wrong", patterns, key="gallery_right", on_change=state.remember,
                format_func=lambda key: "any" if key == "any" else _marks(key) + f" ({counts[key]:,})",
                help=f"One mark for each model, in this order: {', '.join(titles)}.",
            )  # fmt: skip
            if pattern != "any":
                table = table[table["right"] == pattern]
        pages = max(1, math.ceil(len(table) / _PAGE))
        state.valid("gallery_page", range(1, pages + 1), 1)
        page = int(st.number_input(
            f"Page of {pages:,}", 1, pages, key="gallery_page", on_change=state.remember,
            help=f"{_PAGE} images a page, those first on which the models are most divided.",
        ))  # fmt: skip
    divided = (
        f"{len(table):,} images, those first on which the models are most divided: the Jensen–Shannon divergence of "
        "their softmaxes, 0 bit where all say the same and are equally sure, at most "
        f"{math.log2(len(titles)):.2f}. "
    )
    # The progress of a job asks again and again for its part of this page. Asked for just as the server turns to
    # another page, Streamlit 1.67 wipes that one.
    waits = jobs.under_way(_asks(orders, images, len(logits[titles[0]])))
    why = f"{'Once every model is done, click' if waits else 'Click'} an answer to see why that model gives it."
    st.caption((divided if len(titles) > 1 else f"{len(table):,} images. ") + why)
    st.markdown(" &emsp; ".join(f"**{k}** {title}" for k, title in enumerate(titles, start=1)))
    odds = {title: softmax(logits[title], axis=1) for title in titles}
    with st.container(horizontal=True):
        for row in table.iloc[_PAGE * (page - 1) : _PAGE * page].to_dict("records"):
            _card(int(row["index"]), {str(name): value for name, value in row.items()}, odds, orders, images, waits)


def _marks(pattern: str) -> str:
    return " ".join("✓" if digit == "1" else "✗" for digit in pattern)


def _card(
    index: int,
    row: Mapping[str, Any],
    odds: Logits,
    orders: Mapping[str, NDArray[np.int64]],
    images: ImageSet,
    waits: bool,
) -> None:
    names = models[0].classes
    picture = images.picture(index)
    image = picture.image
    factor = max(1, _SIDE // max(image.size))
    shown = image.resize((image.width * factor, image.height * factor), 0) if factor > 1 else image.copy()
    shown.thumbnail((_SIDE, _SIDE))
    label = names[int(row["label"])] if "label" in row else ""
    with st.container(border=True, width=190, gap="xxsmall"):
        st.image(selection.as_url(shown), alt=f"Image {index}" + (f", {label}" if label else ""))
        divided = f" · {row['divergence']:.2f} bit" if len(odds) > 1 else ""
        st.caption(f"№ {index}" + (f" · **{label}**" if label else "") + divided)
        for k, (title, values) in enumerate(odds.items(), start=1):
            best = int(values[index].argmax())
            right = "label" not in row or best == int(row["label"])
            text = f"{k} · {names[best]} {values[index, best]:.0%}"
            icon = ":material/help:" if "label" not in row else ":material/check:" if right else ":material/close:"
            st.button(
                text,
                key=f"why-{index}-{k}",
                icon=icon,
                type="tertiary",
                on_click=_look_at,
                args=(picture, index, title, int(orders[title][best])),
                help=f"{title}: see which pixels speak for {names[best]}.",
                disabled=waits,
            )


def _look_at(picture: cache.Picture, index: int, title: str, target: int) -> None:
    """Make image, model and class those of the other pages; the models compared stay beside each other."""
    chosen = by_title[title]
    session: Any = st.session_state
    session["source"], session["image"] = selection.TEST if picture.images is None else selection.OWN, index
    session["model"] = chosen.id
    session["beside"] = [model.id for model in models if model is not chosen]
    session["target"], session["target_of"] = target, picture.key
    session["explain"] = True
    state.forget_linked("target")  # what an address said of a class was said of another image
    state.remember()


# -- the page ---------------------------------------------------------------------------------------------------------


@st.fragment
def page() -> None:
    if st.session_state.pop("explain", False):  # an answer was clicked on
        st.switch_page("views/attributions.py")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        images = selection.images()
        if images is None:
            return
        sizes = sorted({min(size, len(images)) for size in _SIZES})
        state.valid("compare_n", sizes, sizes[0])
        n = st.segmented_control(
            "How many", sizes, required=True, key="compare_n", on_change=state.remember,
            format_func=lambda k: f"all {k:,}" if k == len(images) else f"the first {k:,}",
            help="More images, narrower intervals, more time.",
        )  # fmt: skip
    assert n is not None  # one is required
    orders = _comparable()
    for sentence in filter(None, (words.continued(by_title[title], selection.offered()) for title in orders)):
        st.caption(f":material/info: {sentence}")
    logits = _logits(orders, images, n)
    if not logits:
        _cards()
    else:
        try:
            _results(logits, orders, images, n)
        except ValueError as error:
            st.warning(str(error))
    state.publish()


def _results(logits: Logits, orders: Mapping[str, NDArray[np.int64]], images: ImageSet, n: int) -> None:
    words.badge("measured", f"on {'all ' if n == len(images) else 'the first '}{n:,} images of {images.title}, here")
    try:
        labels = images.labels(models[0])[:n]
    except ValueError as error:
        st.info(
            f"True classes are not known, because {error} Nothing is right or wrong here, and what the models say is "
            "set side by side only."
        )
        _gallery(
            cache.remember(_kept("gallery", logits, images, n), lambda: comparison.gallery(logits)),
            logits, orders, images,
        )  # fmt: skip
        return
    code = _code(logits, images, n, orders)
    result = cache.remember(
        _kept("comparison", logits, images, n), lambda: comparison.compare(logits, labels, models[0].classes)
    )
    _accuracy(result, len(orders) == 1, code)
    state.valid("compare_view", list(_VIEWS), "gallery")
    view = st.segmented_control(
        "Look at", list(_VIEWS), format_func=_VIEWS.__getitem__, key="compare_view", required=True,
        on_change=state.remember, help="The images themselves, the classes, how far confidence can be trusted, or how "
        "well one class is found.",
    )  # fmt: skip
    if view == "gallery":
        _gallery(result.images, logits, orders, images)
    elif view == "classes":
        _classes(result, code)
    elif view == "calibration":
        _calibration(logits, labels, images, n, code)
    else:
        _roc(logits, labels, images, n, code)


page()
words.misleads(
    "With few images the intervals are wide: two models whose intervals overlap may well be equally good, and may not. "
    "The test of a pair looks at the same images for both and can tell more than two intervals.",
    "The test asks whether these two networks differ. Trained again with another seed, either would be another one.",
    "A model that is continued from another one has been trained for longer. The difference of the two is not only "
    "what it adds: look for one that was trained as long.",
    "ECE depends on its bins, and a model that is right as often as it says on average may be too sure of one class "
    "and not sure enough of another.",
    "The images on which models are most divided are not typical: a gallery of them says nothing of how often they "
    "are wrong.",
    "Softmax outputs of images of another kind than the training images say little.",
)
