"""The page *Branch ledger*: what each branch adds to a layer, and what goes when one is switched off."""

from collections.abc import Iterable, Sequence

import pandas as pd
from torch import Tensor

from analysis.branches import Knockout, Ledger, Switch, branch_shares, knockout, ledger, switch_effect, term_rows
from analysis.figures.branches import effect_bars, knockout_heatmap, share_bars, term_maps, token_ledger
from analysis.views._view import View, class_names
from bcdnet import Network


def token_terms(
    model: Network,
    x: Tensor,
    layer: str,
    row: int,
    col: int,
    upto: str = "shortcut",
    sources: bool = False,
    channels: Sequence[int] | None = None,
) -> View[Ledger]:
    """What adds up at one token of a layer, channel by channel?

    ``data.residual`` is the largest gap between the sums and what the network itself computed.

    Args:
        model: any network of the library.
        x: one normalised image (1, C, H, W).
        layer: one of :func:`analysis.branches.ledger_layers`.
        row, col: token of its output map.
        upto: "norm", "shortcut" or "activation": where the sum is drawn.
        sources: split branches further by the token they read.
        channels: which to draw; the 24 largest if None.

    Raises:
        ValueError: no such layer, token or channel, another ``upto``, or not exactly one image.

    Example:
        >>> token_terms(model, x, "mlp1_1", 3, 3)
    """
    found = ledger(model, x, layer, upto, sources)
    return View(found, token_ledger(found.token(row, col), channels))


def channel_terms(
    model: Network,
    x: Tensor,
    layer: str,
    channel: int,
    upto: str = "shortcut",
    sources: bool = False,
    limits: Sequence[Sequence[float]] | None = None,
    token: tuple[int, int] | None = None,
) -> View[Ledger]:
    """Where on the map does each term of one channel add, and where does it take away?

    Args:
        model, x, layer, upto, sources: as for :func:`token_terms`.
        channel: of the layer's output.
        limits: of each map, what its strongest colour stands for; the largest magnitude of all if None.
        token: (row, column) to mark in every map.

    Raises:
        ValueError: no such layer or channel, another ``upto``, or not exactly one image.

    Example:
        >>> channel_terms(model, x, "mlp1_1", channel=0, sources=True)
    """
    found = ledger(model, x, layer, upto, sources)
    return View(found, term_maps(term_rows(found.channel(channel)), limits, token))


def branches_off(
    model: Network,
    x: Tensor,
    off: Iterable[Switch],
    reference: Tensor | None = None,
    classes: Sequence[str] | None = None,
) -> View[pd.DataFrame]:
    """What becomes of the prediction for one image when branches are switched off?

    Args:
        model: any network of the library.
        x: one normalised image (1, C, H, W).
        off: (layer, branch) pairs, see :func:`analysis.branches.switches`.
        reference: images (N, C, H, W) whose mean takes the branches' place; nothing does if None.
        classes: name of every class; the card's if None.

    Returns:
        Logits and probabilities before and after, see :func:`analysis.branches.switch_effect`.

    Raises:
        ValueError: no such layer or branch, not exactly one image, or not one name for each class.

    Example:
        >>> branches_off(model, x, [("everywhere", "long")])
    """
    effect = switch_effect(model, x, off, reference)
    return View(effect, effect_bars(effect, class_names(model, classes)))


def every_branch_off(
    model: Network, images: Tensor, labels: Sequence[int] | None = None, replace: str = "zero"
) -> View[Knockout]:
    """How much does the accuracy change, in percentage points, when each branch of each layer is switched off alone?

    Without labels, how many images change their class. Accuracy without several branches at once is
    :func:`analysis.branches.knockout` with ``sets``.

    Args:
        model: any network of the library.
        images: normalised (N, C, H, W).
        labels: true classes (N,).
        replace: "zero" or "mean", what takes a branch's place.

    Raises:
        ValueError: no image, not one label for each, or another ``replace``.

    Example:
        >>> every_branch_off(model, images, labels)
    """
    found = knockout(model, images, labels, replace=replace)
    return View(found, knockout_heatmap(found, "changed" if labels is None else "difference"))


def term_shares(model: Network, images: Tensor, measure: str = "variance_share") -> View[pd.DataFrame]:
    """What are the pre-activations of each layer made of, over several images?

    Args:
        model: any network of the library.
        images: normalised (N, C, H, W).
        measure: "variance_share" or "magnitude_share".

    Returns:
        Shares from 0 to 1 by layer and term, see :func:`analysis.branches.branch_shares`.

    Raises:
        ValueError: no image, or another measure.

    Example:
        >>> term_shares(model, images)
    """
    shares = branch_shares(model, images)
    return View(shares, share_bars(shares, measure))
