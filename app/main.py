"""The dashboard's entry: page list, and the selection that all pages share."""

import time

import numpy as np
import streamlit as st
from PIL import Image

from app import cache, state, uploads
from app.widgets import selection, theme

# A drawn icon, because Streamlit's own would be fetched from the network: the short-range pattern, one bit a cell.
CELLS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
ICON = Image.fromarray(255 * CELLS).resize((48, 48), Image.Resampling.NEAREST)
st.set_page_config(page_title="BCDNet Explorer", page_icon=selection.as_url(ICON), layout="wide")

PAGES = [
    st.Page("views/overview.py", title="Overview", icon=":material/home:", default=True,
            help="Binary networks that model contextual dependencies, and the trained ones on offer."),
    st.Page("views/sampling.py", title="Sampling patterns", icon=":material/hub:",
            help="The tokens that each branch of a layer reads at one location."),
    st.Page("views/receptive.py", title="Receptive fields", icon=":material/filter_center_focus:",
            help="The pixels that can reach a location, and how much each one does."),
    st.Page("views/attributions.py", title="Attribution", icon=":material/local_fire_department:",
            help="Predictions for a picture, and the pixels that speak for a class."),
    st.Page("views/ledger.py", title="Branch ledger", icon=":material/account_tree:",
            help="What each branch adds to a pre-activation, and what goes when it is switched off."),
    st.Page("views/binarizing.py", title="Binarization error", icon=":material/contrast:",
            help="What one-bit weights and activations lose, layer by layer."),
    st.Page("views/deployment.py", title="Deployment", icon=":material/memory:",
            help="The picture through the float simulation and the packed engine: bits, times, files."),
    st.Page("views/costs.py", title="OPs trade-offs", icon=":material/scatter_plot:",
            help="Accuracy against operations: published, measured, and of a variant you configure."),
    st.Page("views/compare.py", title="Compare variants", icon=":material/compare:",
            help="The same images through up to four models."),
    st.Page("views/runs.py", title="Training runs", icon=":material/show_chart:",
            help="Loss, accuracy, flips and binarization error over training, also of runs that train right now."),
    st.Page("views/own.py", title="Your own", icon=":material/upload_file:",
            help="A checkpoint or a set of images of your own, for all the other pages."),
]  # fmt: skip

#: Seconds before a new reader's browser is sent more than the heading.
_BREATH = 0.15

page = st.navigation(PAGES)
# Before anything that takes long, so that a reader sees at once where he is. A browser that was never here draws it
# only together with what follows in the same breath, half a second later: the first time it gets a breath for it.
st.title(page.title)
st.caption(page.help)
if state.begins():
    time.sleep(_BREATH)
state.restore(page.title)
models, problems = cache.catalogue()
for problem in filter(None, (*problems, uploads.folder_problem())):
    st.warning(problem, icon=":material/report:")
selection.sidebar(cache.told_apart((*models, *uploads.models())))
try:
    page.run()
finally:
    state.tell_dropped()  # also where a page has to stop early
state.publish()
theme.watch()
cache.settle()
