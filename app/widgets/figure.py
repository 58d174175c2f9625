"""A figure with everything one takes away from it: its picture, its data, and the code that makes it again."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from analysis.figures import palette
from app.cache import ImageSet, Model, Picture, checkpoint_name, opening
from app.widgets import theme

_HTML = """
<div class="buttons">
  <button type="button" value="png" title="The figure as it stands, in pixels">PNG</button>
  <button type="button" value="svg" title="The figure as it stands, in lines">SVG</button>
</div>
<p role="status"></p>
"""
_CSS = """
.buttons { display: flex; gap: 0.5rem; }
button {
  flex: 1; padding: 0.4rem; cursor: pointer; font: inherit;
  color: var(--st-text-color); background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius);
}
button:hover, button:focus-visible { color: var(--st-primary-color); border-color: var(--st-primary-color); }
p { margin: 0.25rem 0 0; font-size: 0.875rem; color: var(--st-text-color); }
p:empty { display: none; }
"""
# The browser saves what it shows, so that no second renderer can differ from it.
_save = st.components.v2.component(
    "figure_save", html=_HTML, css=_CSS, js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
)

Data = pd.DataFrame | Mapping[str, NDArray[Any]]


def show(figure: go.Figure, name: str, alt: str, data: Data, code: str, **chart: Any) -> None:
    """Draw a figure with a menu to export it.

    Args:
        figure: what to draw.
        name: of the files, e.g. "receptive-field"; no other figure of the page has it.
        alt: what the figure says, in words.
        data: its numbers: a table, saved as CSV, or arrays by name, saved as NPZ.
        code: Python that makes the figure again with `analysis`.
        **chart: more arguments for ``st.plotly_chart``.
    """
    key = chart.pop("key", f"figure-{name}")
    st.plotly_chart(_legible(figure), config={"displayModeBar": False}, alt=alt, key=key, **chart)
    with st.popover("Export", icon=":material/download:", help="The figure, its data, and the code that makes it."):
        kind = "csv" if isinstance(data, pd.DataFrame) else "npz"
        st.download_button(
            f"Data ({kind.upper()})",
            lambda: content(data),
            f"{name}.{kind}",
            key=f"{key}-data",
            on_click="ignore",
            width="stretch",
            help="The numbers behind the figure, none of them rounded.",
        )
        # Below, because a hint of Streamlit's covers what stands above its button.
        _save(data={"chart": key, "name": name}, key=f"{key}-save")
        st.caption("The same in Python:")
        st.code(code, language="python")


def _legible(figure: go.Figure) -> go.Figure:
    """The figure with words as dark, or bright, as the page's own: Streamlit's grey is too pale on white to read."""
    ink = {"color": theme.ink()}
    for part in (figure.layout.font, figure.layout.title.font, figure.layout.legend.font):
        palette.change(part, **ink)
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        title = axis.title.to_plotly_json()
        title["font"] = title.get("font", {}) | ink
        palette.change(axis, tickfont=axis.tickfont.to_plotly_json() | ink, title=title)
    return figure


def loading(model: Model, picture: Picture | None = None) -> str:
    """Python that loads the ``model`` and, with a picture, makes it the input ``x`` and the pixels ``image``."""
    lines = ["import bcdnet", "", f"model = bcdnet.load({checkpoint_name(model)!r})"]
    if picture is not None:
        imports = ["import numpy as np", "from bcdnet.data import Preprocess"]
        how = "Preprocess.from_dict(model.card['preprocess'])"
        if picture.test_index is not None:
            imports[-1] += ", open_dataset"
            lines += [f"picture = open_dataset({picture.dataset!r}).images[{picture.test_index}]"]
            how = "Preprocess.from_dict(model.card['preprocess'] | {'invert': 'never'})"
        elif picture.images is not None:
            lines += [*opening(picture.images).splitlines(), f"picture = data.images[{picture.index}]"]
        else:
            imports[-1] += ", decode_image"
            lines += ["picture = decode_image(open('your-picture.png', 'rb').read()).image"]
        lines += [f"how = {how}", "image = np.asarray(how.view(picture).image)", "x = how.batch(image[None])"]
        lines = [*imports[:1], "", lines[0], imports[1], *lines[1:]]
    return "\n".join(lines) + "\n"


def loading_models(models: Sequence[Model]) -> str:
    """Python that loads several ``models``, by title."""
    rows = "".join(f"    {model.title!r}: bcdnet.load({checkpoint_name(model)!r}),\n" for model in models)
    return f"import bcdnet\n\nmodels = {{\n{rows}}}\n"


def loading_images(images: ImageSet, n: int, labels: bool = False, of: str = "model") -> str:
    """Python that makes the first ``n`` images of a set the input ``images`` of the network called ``of``.

    With ``labels``, their true classes, as the network counts them, are a list of that name.
    """
    lines = [
        "from bcdnet.data import Preprocess",
        *opening(images).splitlines(),
        f"images, labels = next(data.batches(Preprocess.from_dict({of}.card['preprocess']), {n}))",
    ]
    if labels:
        lines += [
            f"places = data.class_indices({of}.card['classes'])",
            "labels = [places[label] for label in labels]",
        ]
    return "\n".join(lines) + "\n"


def content(data: Data) -> bytes:
    """A table as CSV, arrays as NPZ."""
    if isinstance(data, pd.DataFrame):
        return data.to_csv(index=False).encode()
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **data)
    return stream.getvalue()
