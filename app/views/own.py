"""Your own: a checkpoint or a set of images that the other pages then offer like the shipped ones."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from app import uploads
from app.widgets import selection, words

st.markdown(
    "Bring a network or images along: they join the shipped ones on **every** page, and nobody else is shown them. "
    "*Remove* drops one and the answers kept of it, the end of your session drops the files. What else was read or "
    "computed of them stays in the server's memory, found by a digest alone, until newer work takes its place."
)


def _take(said: str, add: Callable[..., Any], file: Any, **options: Any) -> None:
    """Hand in what lies in an uploader, and say what came of it after the page is drawn anew."""
    try:
        found = add(file.getvalue(), file.name, **options)
    except uploads.UploadError as error:
        st.error(str(error), icon=":material/block:")
        return
    st.session_state["taken"] = said.format(found.title)
    st.session_state["takings"] = st.session_state.get("takings", 0) + 1  # an uploader of a new key is empty
    st.rerun()


if "taken" in st.session_state:
    st.success(st.session_state.pop("taken"), icon=":material/check:")
turn = st.session_state.get("takings", 0)

st.header("Checkpoints", divider="gray")
file = st.file_uploader(
    "Checkpoint file",
    type="safetensors",
    key=f"own_checkpoint_{turn}",
    max_upload_size=uploads.CHECKPOINT_MB,
    help=f"A *.safetensors file written by `bcdnet train`, `bcdnet import` or `bcdnet.save`, up to "
    f"{uploads.CHECKPOINT_MB} MB and {uploads.MOST} of them. It is read as numbers and never executed.",
)
if file is not None:
    _take("The model **{}** is here; choose it in the sidebar of any page.", uploads.add_model, file)
own = {model.id for model in uploads.models()}
for model in (model for model in selection.offered() if model.id in own):  # by the titles that all pages show
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        top1 = (model.card.get("metrics") or {}).get("top1")
        st.markdown(
            f"**{model.title}** · {model.config.precision}, {len(model.classes)} classes, "
            f"{model.config.image_size[0]}×{model.config.image_size[1]} pixels, {model.bytes / 1e6:.1f} MB  \n"
            f"SHA-256 `{model.key[:16]}…`" + (f" · its card says top-1 {top1:.2f} %" if top1 is not None else "")
        )
        st.button(
            "Look at it",
            key=f"look_{model.id}",
            on_click=st.session_state.__setitem__,
            args=("model", model.id),
            help="Make it the model of the sidebar.",
        )
        st.button(
            "Remove",
            key=f"remove_{model.id}",
            on_click=uploads.remove_model,
            args=(model.id,),
            help="Forget it, here and on all pages.",
        )
    if model.note:
        st.caption(f":material/info: {model.note}")
words.badge("quoted", "what a card says of its own accuracy was not checked here; the page Compare variants measures")

st.header("Images", divider="gray")
st.markdown(
    "A zip file of images, at best in one folder a class, can be the set that *Receptive fields*, *Branch ledger*, "
    "*Binarization error* and *Compare variants* ask about. Folders named as the model's classes give true labels; "
    "letters and digits count, so `t-shirt-top` is *T-shirt/top*."
)
file = st.file_uploader(
    "Zip file of images",
    type="zip",
    key=f"own_images_{turn}",
    max_upload_size=uploads.IMAGES_MB,
    help=f"Up to {uploads.IMAGES_MB} MB and {uploads.MOST} files; of more than {uploads.MOST_IMAGES:,} images, "
    f"{uploads.MOST_IMAGES:,} are taken evenly. PNG, JPEG, WebP, GIF, BMP or TIFF.",
)
if file is not None:
    with words.progress(True, "images") as report:
        _take("The set **{}** is here for the pages named above.", uploads.add_images, file, progress=report)
for images in uploads.image_sets(None):
    if images.test_of is not None:
        continue
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"**{images.title}** · {len(images):,} images, {len(images.data.classes)} "
            f"class{'es' * (len(images.data.classes) > 1)}"
        )
        if images.key.startswith("images-"):
            st.button(
                "Remove",
                key=f"remove_{images.key}",
                on_click=uploads.remove_images,
                args=(images.key,),
                help="Forget these images.",
            )
    for note in images.data.notes:
        st.caption(f":material/info: {note}")

with st.expander("A whole folder", icon=":material/folder:"):
    st.markdown(
        "`make app CHECKPOINTS=folder` shows the checkpoints of a folder instead of the shipped ones, and "
        "`make app IMAGES=folder` adds a folder of images. Both are read where they lie; of more than "
        f"{uploads.MOST_IMAGES:,} images, {uploads.MOST_IMAGES:,} are taken evenly, as from a zip file."
    )
with st.expander("What a checkpoint has to hold", icon=":material/rule:"):
    st.dataframe(
        pd.DataFrame(
            {
                "part": ["tensors", "config", "card: preprocess", "card: classes"],
                "why": [
                    "every parameter of the network, of the right shape and finite",
                    "which network it is; nothing else says how to build it",
                    "how a picture becomes its input; never guessed",
                    "names of the classes; numbers are shown without",
                ],
            }
        ),
        hide_index=True,
        alt="The four parts of a checkpoint, and why each is needed",
    )
words.misleads(
    "A network always answers with one of its own classes, whatever the picture shows.",
    "A set without the model's class names has no true labels: agreement between models can be seen, accuracy cannot.",
    "Of a large zip file only some images are taken; numbers then speak of those alone.",
)
