"""One colour scale for one map, for a row of maps, or for all of them."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Scope = Literal["map", "row", "all"]

#: What a scale may span -> how it is called.
SCOPES: dict[Scope, str] = {"map": "this map", "row": "its row", "all": "all maps"}


def limits(rows: Sequence[Sequence[NDArray[Any] | None]], scope: Scope) -> list[list[float]]:
    """The largest absolute value that the colours of each map stand for.

    Args:
        rows: maps of any shapes, row by row; None for one that is not there.
        scope: "map": each its own; "row": one for every row; "all": one for everything.

    Returns:
        Limits in the order of the maps, above 0; 1 where there is nothing but zeros. What is not finite is passed over.
    """

    def largest(value: NDArray[Any] | None) -> float:
        finite = np.asarray([] if value is None else value, float)
        finite = finite[np.isfinite(finite)]
        return float(np.abs(finite).max(initial=0.0))

    own = [[largest(value) for value in row] for row in rows]
    everything = max((value for row in own for value in row), default=0.0)
    chosen = {
        "map": own,
        "row": [[max(row)] * len(row) for row in own],
        "all": [[everything] * len(row) for row in own],
    }[scope]
    return [[value or 1.0 for value in row] for row in chosen]
