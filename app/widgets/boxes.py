"""Boxes beside each other where the window is wide, below each other where it is narrow."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator


def beside(*widths: int) -> list[DeltaGenerator]:
    """Boxes of these widths in pixels; 900 in all go beside each other. Columns would squeeze them instead."""
    with st.container(horizontal=True, gap="medium"):
        return [st.container(width=width) for width in widths]
