"""What is looked at: model, picture, layer, token, class. Every page uses the same keys, so a choice follows along."""

import base64
import io
import random
from collections.abc import Sequence

import numpy as np
import streamlit as st
from PIL import Image
from streamlit.delta_generator import DeltaGenerator

from analysis import sampling
from app import cache, state, uploads
from app.cache import ImageSet, Model, Picture
from app.widgets import scale as scales
from app.widgets import token_map


def chosen() -> tuple[Model, Picture]:
    """The model and the picture of the sidebar; a page that needs them ends here when there are none."""
    model, picture = st.session_state["chosen"]
    if model is None:
        st.info(
            "No trained models were found, so there is nothing to look into on this page. Run `make zoo` to train "
            "them, or set `BCDNET_CHECKPOINTS` to a folder of checkpoints. The page *OPs trade-offs* works without.",
            icon=":material/folder_off:",
        )
        st.stop()
    if picture is None:
        st.info("Choose a picture in the sidebar: the test images were not found.", icon=":material/image:")
        st.stop()
    return model, picture


#: Networks side by side, at most.
MOST = 4


def offered() -> tuple[Model, ...]:
    """Every model one can choose: the shipped ones, or those of the folder shown instead, and the reader's own."""
    models: tuple[Model, ...] = st.session_state["offered"]
    return models


def models() -> list[Model]:
    """The model of the sidebar and those beside it, :data:`MOST` at most; a page that needs one ends without."""
    by_id = {model.id: model for model in offered()}
    return [chosen()[0], *(by_id[key] for key in st.session_state["beside"])]


def sidebar(models: tuple[Model, ...]) -> None:
    """Choose models and picture, in the sidebar of every page; :func:`chosen` and :func:`models` tell them."""
    st.session_state["chosen"], st.session_state["offered"] = (None, None), models
    if not models:
        return
    with st.sidebar:
        by_id = {model.id: model for model in models}
        state.valid("model", list(by_id), _default_model(models).id)
        key = st.selectbox(
            "Model",
            list(by_id),
            format_func=lambda key: by_id[key].title,
            key="model",
            help="The trained network that every page looks into.",
        )
        model = by_id[key]
        others = [other for other in by_id if other != key]
        state.several("beside", others, _default_beside(model, models), MOST - 1)
        st.multiselect(
            "Beside it",
            others,
            format_func=lambda key: by_id[key].title,
            key="beside",
            max_selections=MOST - 1,
            placeholder="no other",
            help=f"Up to {MOST - 1} more networks, for the pages that set several side by side.",
        )
        above = st.container()
        images = st.session_state["images"] = _images(model)
        with above:
            st.session_state["chosen"] = (model, _picture(model, images))


def _default_model(models: tuple[Model, ...]) -> Model:
    """The first one with everything to show: binary weights, binary activations and all three branches."""
    complete = (m for m in models if m.config.precision == "1/1" and m.config.mlp_groups and m.config.branches == "PSL")
    return next(complete, models[0])


def _default_beside(model: Model, models: tuple[Model, ...]) -> list[str]:
    """Two others that answer the same question at the same precision, first one of the other kind, with MLPs or not."""
    alike = [
        other
        for other in models
        if other.config != model.config
        and other.classes == model.classes
        and (other.config.image_size, other.config.precision) == (model.config.image_size, model.config.precision)
    ]
    alike.sort(key=lambda other: bool(other.config.mlp_groups) == bool(model.config.mlp_groups))
    return [other.id for other in alike[:2]]


#: Where the picture comes from: the test set of the model, the reader's own set of the sidebar, or a file.
TEST, OWN, UPLOAD = "Test image", "From the set", "Upload"


def _picture(model: Model, images: ImageSet | None) -> Picture | None:
    data = cache.test_set(model.dataset)
    about = cache.dataset_source(model.dataset)
    own = images if images is not None and images.test_of is None else None
    sources = [*([TEST] if data is not None else []), *([OWN] if own is not None else []), UPLOAD]
    state.valid("source", sources, sources[0])
    source = st.segmented_control(
        "Picture",
        sources,
        key="source",
        required=True,
        help=f"A test image of {about.title}, on which this model was not trained, or a picture of your own: one of "
        "the set that is chosen below, or a file.",
    )
    if data is None:
        st.caption(f"The test images of {about.title} are not here: {about.obtain}.")
    picture = _upload(data is not None) if source == UPLOAD else None
    if source == OWN and own is not None:
        picture = own.picture(_number(len(own)))
    elif picture is None and data is not None:
        picture = cache.test_picture(_number(len(data)), model.dataset)
    if picture is not None:
        _show_input(model, picture)
    return picture


def _number(count: int) -> int:
    last = count - 1
    state.valid("image", range(count), 0)
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    left.number_input(
        "Number", 0, last, step=1, key="image", help=f"Number of the image, 0 to {last:,}, in the set's own order."
    )
    right.button(
        "",
        icon=":material/casino:",
        on_click=_roll,
        args=(last,),
        help="Show another image, at random.",
        width="stretch",
    )
    return int(st.session_state["image"])


def _roll(last: int) -> None:
    st.session_state["image"] = random.randint(0, last)


def _upload(otherwise_shown: bool) -> Picture | None:
    file = st.file_uploader(
        "Picture file",
        key="upload",
        max_upload_size=uploads.PICTURE_MB,
        help=f"PNG, JPEG, WebP, GIF, BMP or TIFF, up to {uploads.PICTURE_MB} MB. The file is forgotten with your "
        "session; a link to the view names it by its digest only.",
    )
    # A link names an uploaded picture by its digest: the same file restores the view, and nobody is given it.
    wanted = state.text("digest")
    if file is None:
        if wanted:
            st.info(
                f"This link looks at an uploaded picture (digest {wanted[:8]}…). Upload the same file to see the view; "
                "until then the test image is shown."
            )
        else:
            st.caption(f"No file yet{': the test image is shown' * otherwise_shown}.")
        return None
    try:
        picture = cache.uploaded_picture(file.getvalue())
    except cache.ImageError as error:
        instead = " The test image is shown instead." if otherwise_shown else ""
        st.error(f"{error}{instead}", icon=":material/broken_image:")
        return None
    st.session_state["digest"] = picture.key[:DIGEST]
    return picture


#: Characters of a picture's digest in an address.
DIGEST = 16


def as_url(image: Image.Image) -> str:
    """A small picture as a data URL, part of the page itself.

    Streamlit's own media files are dropped when a quick reader's page is rerun before the browser has fetched them.
    """
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _show_input(model: Model, picture: Picture) -> None:
    seen = cache.seen(model, picture)
    height, width = seen.image.height, seen.image.width
    st.image(
        as_url(seen.image.resize((width * max(1, 224 // width), height * max(1, 224 // height)), 0)),
        width="stretch",
        alt=f"The {width} by {height} pixels that the network is given",
    )
    if picture.dataset is not None and picture.label is not None:
        data = cache.test_set(picture.dataset)
        assert data is not None
        st.markdown(f"**{data.classes[picture.label]}** · the label in the test set")
    st.caption(f"Exactly what the network is given: {width} × {height} pixels.")
    for note in seen.notes:
        st.caption(f":material/info: {note}")


#: Width of the controls beside a drawing, in pixels.
_CONTROLS = 360


def drawing_and_controls() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Places for a drawing and for its controls: on its right, or below it where the window is narrow."""
    row = st.container(horizontal=True, gap="large")
    return row.container(), row.container(width=_CONTROLS)


def layer(options: list[str], default: str, label: str = "Layer", help: str = "") -> str:
    """A layer of the model; the one chosen on another page, if this page offers it."""
    if not state.layer_chosen():
        st.session_state["layer"] = default
    state.valid("layer", options, default)
    return st.selectbox(
        label,
        options,
        key="layer",
        on_change=state.choose_layer,
        help=help or "A layer, in the order the image passes through.",
    )


def token(model: Model, picture: Picture, layer: str) -> tuple[int, int]:
    """A location of a layer's output map, (row, column): clicked or moved by arrow keys on a map, or typed."""
    about = cache.layers(model)[layer]
    state.valid("row", range(about.height), about.height // 2)
    state.valid("col", range(about.width), about.width // 2)

    def number(name: str, key: str, size: int, from_: str) -> int:
        help_ = f"{name} of the token on the layer's map, from the {from_}."
        return int(st.number_input(name, 0, size - 1, step=1, key=key, on_change=state.remember, help=help_))

    with st.container(horizontal=True):
        row, col = number("Row", "row", about.height, "top"), number("Column", "col", about.width, "left")
    sources = cache.ask(sampling.token_sources, model, layer, row, col)
    token_map.choose("token_map", layer, about, sources, as_url(cache.seen(model, picture).image))
    return row, col


def images() -> ImageSet | None:
    """The images to ask about together, chosen in the sidebar; None, with a sentence, if there are none."""
    chosen: ImageSet | None = st.session_state["images"]
    if chosen is None:
        st.info(
            "There is no set of images to ask about: the test images were not found. Add a zip file of your own on "
            "the page *Your own*.",
            icon=":material/photo_library:",
        )
    return chosen


def _images(model: Model) -> ImageSet | None:
    """The choice of the set of images, where there are several."""
    sets = {images.key: images for images in uploads.image_sets(model)}
    if not sets:
        return None
    state.valid("set", list(sets), next(iter(sets)))
    if len(sets) > 1:
        st.selectbox(
            "Images",
            list(sets),
            format_func=lambda key: f"{sets[key].title} ({len(sets[key]):,})",
            key="set",
            help="The set that questions about many images are asked of; add your own on the page Your own.",
        )
    return sets[st.session_state["set"]]


#: How many images of a set one can ask about.
COUNTS = (50, 200, 1000)


def count(images: ImageSet, default: int = COUNTS[0]) -> int:
    """How many images of a set to ask about, counted from its beginning."""
    state.valid("n", COUNTS, default)
    n: int = st.select_slider(
        "Images", COUNTS, key="n", on_change=state.remember, help="So many, from the beginning of the set."
    )
    return min(n, len(images))


def scale(key: str = "scale", default: scales.Scope = "row") -> scales.Scope:
    """How far the colours of several maps reach, see :func:`app.widgets.scale.limits`."""
    scope = state.valid(key, list(scales.SCOPES), default)
    st.segmented_control(
        "Colour scale",
        list(scales.SCOPES),
        format_func=scales.SCOPES.__getitem__,
        key=key,
        required=True,
        on_change=state.remember,
        help="Whether the strongest colour stands for the largest value of each map, of the maps in its row, or of "
        "all maps shown. Only maps on one scale can be compared by eye.",
    )
    return scope


def clicked_token(selection: dict, height: int, width: int) -> tuple[int, int] | None:
    """The token a click on a map hit: (row, col), or None if the click hit none."""
    for point in selection.get("selection", {}).get("points", []):
        col, row = round(point["x"]), round(point["y"])
        if 0 <= row < height and 0 <= col < width:
            return row, col
    return None


def target(models: Sequence[Model], picture: Picture) -> int:
    """The class to explain: the likeliest (on average over the models), until another is chosen for this picture."""
    scores = np.mean([cache.probabilities(model, picture) for model in models], axis=0)
    order = [int(k) for k in scores.argsort()[::-1]]
    if st.session_state.get("target_of", picture.key) != picture.key:
        st.session_state["target"] = order[0]
    st.session_state["target_of"] = picture.key
    state.valid("target", order, order[0])
    return st.selectbox(
        "Class to explain",
        order,
        format_func=lambda k: f"{models[0].classes[k]} · {scores[k]:.1%}",
        key="target",
        help="The map shows what speaks for and against this class. Percentages are the network's probabilities, "
        "or the mean over several networks.",
    )
