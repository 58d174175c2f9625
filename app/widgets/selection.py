"""What is looked at: model, picture, layer, token, class. Every page uses the same keys, so a choice follows along."""

import base64
import io
import random
from collections.abc import Sequence

import numpy as np
import streamlit as st
from PIL import Image

from app import cache, state
from app.cache import Model, Picture


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


def sidebar(models: tuple[Model, ...]) -> None:
    """Choose the model and the picture, in the sidebar of every page; :func:`chosen` tells them."""
    st.session_state["chosen"] = (None, None)
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
        st.session_state["chosen"] = (model, _picture(model))


def _default_model(models: tuple[Model, ...]) -> Model:
    """The first one with everything to show: binary weights, binary activations and all three branches."""
    complete = (m for m in models if m.config.precision == "1/1" and m.config.mlp_groups and m.config.branches == "PSL")
    return next(complete, models[0])


def _picture(model: Model) -> Picture | None:
    data = cache.test_set()
    sources = ["Test image", "Upload"] if data is not None else ["Upload"]
    state.valid("source", sources, sources[0])
    source = st.segmented_control(
        "Picture",
        sources,
        key="source",
        required=True,
        help="One of the 10,000 test images of Fashion-MNIST, which no model was trained on, or a picture of your own.",
    )
    picture = _upload() if source == "Upload" else None
    if picture is None and data is not None:
        picture = _test_image()
    if picture is not None:
        _show_input(model, picture)
    return picture


def _test_image() -> Picture:
    data = cache.test_set()
    assert data is not None
    last = len(data) - 1
    state.valid("image", range(last + 1), 0)
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    left.number_input(
        "Number", 0, last, step=1, key="image", help=f"Number of the test image, 0 to {last:,}, in the set's own order."
    )
    right.button(
        "",
        icon=":material/casino:",
        on_click=_roll,
        args=(last,),
        help="Show another test image, at random.",
        width="stretch",
    )
    return cache.test_picture(int(st.session_state["image"]))


def _roll(last: int) -> None:
    st.session_state["image"] = random.randint(0, last)


def _upload() -> Picture | None:
    file = st.file_uploader(
        "Picture file",
        key="upload",
        help="PNG, JPEG, WebP, GIF, BMP or TIFF, up to 10 MB. It stays in this server's memory and is forgotten "
        "with your session.",
    )
    if file is None:
        st.caption("No file yet: the test image is shown.")
        return None
    try:
        return cache.uploaded_picture(file.getvalue())
    except cache.ImageError as error:
        instead = "" if cache.test_set() is None else " The test image is shown instead."
        st.error(f"{error}{instead}", icon=":material/broken_image:")
        return None


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
    if picture.label is not None:
        data = cache.test_set()
        assert data is not None
        st.markdown(f"**{data.classes[picture.label]}** · the label in the test set")
    st.caption(f"Exactly what the network is given: {width} × {height} pixels.")
    for note in seen.notes:
        st.caption(f":material/info: {note}")


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


def token(height: int, width: int) -> tuple[int, int]:
    """A location of a layer's map, by number; pages add a map to click on."""
    state.valid("row", range(height), height // 2)
    state.valid("col", range(width), width // 2)

    def number(name: str, key: str, size: int, from_: str) -> int:
        help_ = f"{name} of the token on the layer's map, from the {from_}."
        return int(st.number_input(name, 0, size - 1, step=1, key=key, on_change=state.remember, help=help_))

    rows, cols = st.columns(2)
    with rows:
        row = number("Row", "row", height, "top")
    with cols:
        col = number("Column", "col", width, "left")
    return row, col


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
