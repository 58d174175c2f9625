"""What every view returns, and what several of them need."""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import plotly.graph_objects as go

from bcdnet import Network

T = TypeVar("T")


class View(NamedTuple, Generic[T]):
    """What the dashboard shows, in two parts: ``data``, as :mod:`analysis` found it, and the ``figure`` of it."""

    data: T
    figure: go.Figure


def class_names(model: Network, classes: Sequence[str] | None) -> list[str]:
    """``classes``, or if None those of the model's card, or numbers where it has no card."""
    if classes is None:
        classes = model.card.get("classes") or [str(k) for k in range(model.config.num_classes)]
    return list(classes)
