"""What binarization does to a trained network: its error, its bits, its thresholds.

Weights are judged by their latent values, so every function works at any precision: at 32/1 and 32/32 it tells what
binarizing the weights as they are would do.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.sampling import branch_labels
from bcdnet.binarize import sign, weight_scale
from bcdnet.evaluate import evaluating
from bcdnet.model import Network

Progress = Callable[[int, int], object]

#: Images in one pass of a question about a set of them.
CHUNK = 16

#: The histograms of :class:`LatentWeights` in which weights can be marked.
VIEWS = ("latent", "sign", "scaled")

#: Exchange distance of a branch, nearest first.
_DISTANCE = {"point": 0, "short": 1, "long": 2}


def binary_weights(model: Network) -> Iterator[tuple[str, str, Tensor]]:
    """(layer, branch, latent weights (C_out, C_in, k, k)) of every binary product, in order, detached."""
    units = dict(model.residual_units())
    for name, products in groupby(model.binary_layers(), key=itemgetter(0)):
        for label, (_, _, product) in zip(branch_labels(units[name].op), products, strict=True):
            yield name, label, product.weight.detach()


def binarization_error(model: Network) -> pd.DataFrame:
    """Error of replacing latent weights by their scaled signs, per layer and branch (paper, Eq. 23 and Fig. 6).

    ``l1 = (1/n) sum_i |W_i - alpha_o(i) sign(W_i)|`` with ``alpha_o = mean |W_o|`` of the output channel.

    Returns:
        Columns ``layer``; ``group``, the block or group of MLPs it belongs to; ``branch``; ``l1``; ``mse``, the mean
        square of the same differences; ``relative = l1 / mean |W|``, free of the weights' scale; ``n`` weights.
        Layers with real weights by design have no row.
    """
    rows = []
    for layer, branch, weight in binary_weights(model):
        weight = weight.to(torch.float64)
        difference = weight - weight_scale(weight) * sign(weight)
        l1, magnitude = float(difference.abs().mean()), float(weight.abs().mean())
        rows.append(
            {
                "layer": layer,
                "group": layer.split(".")[0].rpartition("_")[0] or layer.split(".")[0],
                "branch": branch,
                "l1": l1,
                "mse": float(difference.square().mean()),
                "relative": l1 / magnitude if magnitude else 0.0,
                "n": weight.numel(),
            }
        )
    return pd.DataFrame(rows, columns=["layer", "group", "branch", "l1", "mse", "relative", "n"])


def branch_order(errors: pd.DataFrame, measure: str = "l1") -> pd.DataFrame:
    """Check per layer whether the error falls with the branch's distance, point > short > long.

    This order is inferred from the paper's sentence on the distance of exchange; the text at hand lacks its formula.

    Args:
        errors: from :func:`binarization_error`.
        measure: "l1" (the paper's), "mse" or "relative".

    Returns:
        One row per layer with branches of at least two distances: ``layer``, ``group``, ``order`` (branches by falling
        error, e.g. "point > long > short"); ``as_paper``: whether every nearer branch has a strictly larger error than
        every farther one; ``opposite``: whether every nearer branch has a strictly smaller one; ``smallest``: the
        branch of the smallest error.
    """
    rows = []
    known = errors.assign(distance=errors.branch.str.split().str[0].map(_DISTANCE)).dropna(subset="distance")
    for (layer, group), part in known.groupby(["layer", "group"], sort=False):
        branches = list(zip(part.distance, part[measure], part.branch, strict=True))
        if len({distance for distance, _, _ in branches}) < 2:
            continue
        pairs = [(near, far) for d1, near, _ in branches for d2, far, _ in branches if d1 < d2]
        falling = [branch for _, _, branch in sorted(branches, key=lambda entry: -entry[1])]
        rows.append(
            {
                "layer": layer,
                "group": group,
                "order": " > ".join(falling),
                "as_paper": all(near > far for near, far in pairs),
                "opposite": all(near < far for near, far in pairs),
                "smallest": falling[-1],
            }
        )
    return pd.DataFrame(rows, columns=["layer", "group", "order", "as_paper", "opposite", "smallest"])


def order_summary(errors: pd.DataFrame, measure: str = "l1") -> pd.DataFrame:
    """How often the order of :func:`branch_order` shows, model by model.

    Args:
        errors: of several models, which column ``model`` names; from :func:`analysis.bits.compare_errors`.
        measure: "l1" (the paper's), "mse" or "relative".

    Returns:
        One row per model that has layers with branches of at least two distances: ``model``; ``layers``, how many;
        ``as_paper`` and ``opposite``, in how many of them the error falls and rises strictly with the distance;
        ``smallest``, the branch that most often has the smallest error, and ``smallest_in``, in how many layers;
        ``order``: branches by falling mean error over these layers, weighted by their numbers of weights.
    """
    rows = []
    for model, of_model in errors.groupby("model", sort=False):
        layers = branch_order(of_model, measure)
        if layers.empty:
            continue
        part = of_model[of_model.layer.isin(layers.layer)]
        sums = part.assign(sum=part[measure] * part.n).groupby("branch", sort=False)[["sum", "n"]].sum()
        often = layers.smallest.value_counts()
        rows.append(
            {
                "model": model,
                "layers": len(layers),
                "as_paper": int(layers.as_paper.sum()),
                "opposite": int(layers.opposite.sum()),
                "smallest": often.index[0],
                "smallest_in": int(often.iloc[0]),
                "order": " > ".join((sums["sum"] / sums.n).sort_values(ascending=False, kind="stable").index),
            }
        )
    return pd.DataFrame(rows, columns=["model", "layers", "as_paper", "opposite", "smallest", "smallest_in", "order"])


def weight_statistics(model: Network, near_zero: float = 0.1) -> pd.DataFrame:
    """What the binary weights of each layer and branch look like.

    Args:
        model: any network of the library.
        near_zero: a latent weight is near zero if ``|W| < near_zero * alpha`` of its output channel.

    Returns:
        Columns ``layer``, ``branch``; ``positive``: share of +1; ``near_zero``: share of latent weights so small that
        a little more training may flip them; ``alpha_mean``, ``alpha_std`` over the output channels (population);
        ``entropy`` in bits per weight, ``-p log2 p - (1-p) log2 (1-p)`` with p the share of +1; ``n`` weights.
    """
    rows = []
    for layer, branch, weight in binary_weights(model):
        alpha = weight_scale(weight)
        positive = float((weight >= 0).double().mean())
        rows.append(
            {
                "layer": layer,
                "branch": branch,
                "positive": positive,
                "near_zero": float((weight.abs() < near_zero * alpha).double().mean()),
                "alpha_mean": float(alpha.double().mean()),
                "alpha_std": float(alpha.double().std(correction=0)),
                "entropy": float(entropy(np.array(positive))),
                "n": weight.numel(),
            }
        )
    return pd.DataFrame(rows)


def entropy(p: NDArray) -> NDArray[np.float64]:
    """Entropy in bits of a bit that is +1 with probability p; 0 at p = 0 and p = 1."""
    q = np.stack([p, 1 - p]).astype(float)
    return -(q * np.log2(np.where(q > 0, q, 1))).sum(0)


def activation_statistics(model: Network, x: Tensor) -> pd.DataFrame:
    """What reaches the sign of each layer, for a batch of images.

    Args:
        model: any network of the library, run in eval mode; at real precisions, the bits that a sign would give.
        x: normalised images (N, C, H, W).

    Returns:
        One row per layer with a sign: ``layer``; ``positive``: share of +1; ``entropy`` in bits, mean over channels,
        of the channel's share of +1; ``magnitude``: mean ``|x + b - threshold|``; ``clipped``: share of values of 1
        and more in magnitude, through which the straight-through estimator passes no gradient; ``constant``: share of
        channels whose bit is the same everywhere and in every image.

    Raises:
        InputError: images of a shape the network cannot take.
    """
    rows = []
    for layer, (values, _) in before_sign(model, x).items():
        bits = (values >= 0).double().transpose(0, 1).flatten(1).mean(1).cpu().numpy()  # share of +1 per channel
        rows.append(
            {
                "layer": layer,
                "positive": float(bits.mean()),
                "entropy": float(entropy(bits).mean()),
                "magnitude": float(values.abs().double().mean()),
                "clipped": float((values.abs() >= 1).double().mean()),
                "constant": float(((bits == 0) | (bits == 1)).mean()),
            }
        )
    return pd.DataFrame(rows)


def activation_error(model: Network, images: Tensor, progress: Progress | None = None) -> pd.DataFrame:
    """Error of replacing what reaches each sign by its scaled signs, image by image (Eq. 23, asked of activations).

    ``l1 = (1/n) sum_i |A_i - alpha sign(A_i)|`` over a layer's map of one image, with A the map minus its threshold and
    ``alpha = mean |A|``. The networks multiply by the bare signs; one scale a layer is what the batch normalisation
    behind the product can hold, and the best one for a single image, so the error tells the least that is lost.

    Args:
        model: any network of the library, run in eval mode; at real precisions, what a sign would lose.
        images: normalised, (N, C, H, W).
        progress: called with (done, total) images after each :data:`CHUNK`; raise in it to cancel.

    Returns:
        One row per layer with a sign and image: ``layer``; ``image``, 0 to N - 1; ``l1``; ``mse``, the mean square of
        the same differences; ``relative = l1 / alpha``, free of the map's scale (0 for a map of zeros); ``alpha``.

    Raises:
        ValueError: no images, or of a shape the network cannot take.
    """
    if not len(images):
        raise ValueError("the error of activations needs at least one image.")
    parts, done = [], 0
    for chunk in images.split(CHUNK):
        for layer, (values, _) in before_sign(model, chunk).items():
            magnitude = values.double().abs().flatten(1)  # (N, C, H, W) -> (N, C*H*W)
            alpha = magnitude.mean(1)
            difference = (magnitude - alpha[:, None]).abs()  # |A - alpha sign(A)| = ||A| - alpha|
            l1 = difference.mean(1)
            numbers = {"l1": l1, "mse": difference.square().mean(1)}
            numbers |= {"relative": torch.where(alpha > 0, l1 / alpha, 0.0), "alpha": alpha}
            index = {"layer": layer, "image": range(done, done + len(chunk))}
            parts.append(pd.DataFrame(index | {name: value.cpu().numpy() for name, value in numbers.items()}))
        done += len(chunk)
        if progress:
            progress(done, len(images))
    frame = pd.concat(parts, ignore_index=True)
    order = {layer: position for position, layer in enumerate(dict.fromkeys(frame.layer))}
    return frame.sort_values("layer", key=lambda layers: layers.map(order), kind="stable", ignore_index=True)


def thresholds(model: Network, x: Tensor | None = None) -> pd.DataFrame:
    """Thresholds of every sign: a bit is +1 where the map is at least ``-b + dynamic``.

    Args:
        model: any network of the library.
        x: normalised images (N, C, H, W). With them, layers that have a context embedding get one row per image.

    Returns:
        Columns ``layer``, ``channel``; ``image``, -1 where the threshold is the same for every image; ``static = -b``;
        ``dynamic``, what the embedding adds (0 without one; NaN where it has one but no image is given); ``total``.

    Raises:
        InputError: images of a shape the network cannot take.
    """
    seen = {} if x is None else before_sign(model, x)
    parts = []
    for layer, unit in model.residual_units():
        if unit.sign is None:
            continue
        static = 0.0 - unit.sign.bias.detach().double().cpu().numpy()  # (C,); 0.0 - b, because -b prints "-0"
        if unit.embedding is None:
            dynamic, first = np.zeros((1, len(static))), -1
        elif layer in seen and (added := seen[layer][1]) is not None:
            dynamic, first = added.double().cpu().numpy(), 0  # (N, C)
        else:
            dynamic, first = np.full((1, len(static)), np.nan), -1
        images, channels = dynamic.shape
        parts.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "channel": np.tile(np.arange(channels), images),
                    "image": np.repeat(np.arange(first, first + images), channels),
                    "static": np.tile(static, images),
                    "dynamic": dynamic.ravel(),
                }
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(total=frame.static + frame.dynamic)


def before_sign(model: Network, x: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
    """What every sign sees in one pass of eval mode, a layer's bit being +1 where its value is at least 0.

    Args:
        model: any network of the library.
        x: normalised images (N, C, H, W).

    Returns:
        layer -> (map minus threshold (N, C, H, W), dynamic part of the threshold (N, C) or None).

    Raises:
        InputError: images of a shape the network cannot take.
    """
    seen = {}
    with recording_signs(model) as inputs, evaluating(model), torch.no_grad():
        model(x)
    for layer, (value, threshold) in inputs.items():
        shift = model.units.get_submodule(layer).get_parameter("sign.bias").detach()
        shift = shift if threshold is None else shift - threshold
        seen[layer] = (value + shift[..., None, None], threshold)
    return seen


@contextmanager
def recording_signs(model: Network) -> Iterator[dict[str, tuple[Tensor, Tensor | None]]]:
    """Collect map and dynamic threshold of every RSign; the hooks are gone afterwards, also after an error."""
    inputs: dict[str, tuple[Tensor, Tensor | None]] = {}
    handles = []
    try:
        for layer, unit in model.residual_units():
            if unit.sign is not None:

                def record(module: torch.nn.Module, args: tuple, layer: str = layer) -> None:
                    inputs[layer] = (args[0], args[1] if len(args) > 1 else None)

                handles.append(unit.sign.register_forward_pre_hook(record))
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class LatentWeights:
    """Weights of one product, each array (C_out, C_in, k, k) but ``alpha`` (C_out,).

    ``latent`` is what training updates, ``sign`` its bits, ``scaled = alpha * sign`` what a binary layer multiplies by.
    """

    latent: NDArray
    sign: NDArray
    scaled: NDArray
    alpha: NDArray


def latent_weights(model: Network, layer: str, branch: str | None = None) -> LatentWeights:
    """Latent, binary and scaled weights of a layer.

    Args:
        model: any network of the library.
        layer: name of a residual unit, e.g. "mlp1_1".
        branch: one of its branches; None: all, stacked along the output channels.

    Raises:
        ValueError: no such layer or branch, or a layer whose weights are real by design.
    """
    found = {b: weight for name, b, weight in binary_weights(model) if name == layer}
    if not found:
        raise ValueError(f"the network has no layer {layer!r} with binary weights.")
    if branch is not None and branch not in found:
        raise ValueError(f"layer {layer} has the branches {', '.join(found)}, not {branch!r}.")
    weight = torch.cat(list(found.values())) if branch is None else found[branch]
    bits, alpha = sign(weight), weight_scale(weight)
    # Copies: the caller must not be able to write into the network.
    latent, bits_, scaled = (t.cpu().numpy().copy() for t in (weight, bits, alpha * bits))
    return LatentWeights(latent, bits_, scaled, alpha.flatten().cpu().numpy())


def histogram_edges(weights: LatentWeights, bins: int = 81) -> NDArray[np.float64]:
    """Edges of the bins that the histograms of latent and scaled weights share, symmetric about zero.

    The number of bins is made even, so that none straddles zero.
    """
    reach = float(max(np.abs(weights.latent).max(), np.abs(weights.scaled).max())) or 1.0
    return np.linspace(-reach, reach, bins + bins % 2 + 1)


@dataclass(frozen=True)
class Marked:
    """Some weights of a product, to be found again in each of its histograms.

    Attributes:
        chosen: bool, of the weights' shape.
        n: how many there are; the numbers below are NaN where there are none.
        share: of all weights of the product.
        positive: share of +1 among them.
        near_zero: share of them whose latent weight is smaller than ``near_zero * alpha`` of its output channel.
        l1: their mean ``|W - alpha sign(W)|``.
        error_share: their part of the product's summed error; 0 where the product has none.
    """

    chosen: NDArray[np.bool_]
    n: int
    share: float
    positive: float
    near_zero: float
    l1: float
    error_share: float


def mark_weights(weights: LatentWeights, low: float, high: float, of: str = "latent", near_zero: float = 0.1) -> Marked:
    """The weights whose value lies in a range of one histogram, and what they share.

    Args:
        weights: from :func:`latent_weights`.
        low, high: the range, both ends included.
        of: the histogram, one of :data:`VIEWS`.
        near_zero: as in :func:`weight_statistics`.

    Raises:
        ValueError: another histogram.
    """
    if of not in VIEWS:
        raise ValueError(f"weights are marked by one of {', '.join(VIEWS)}, not by {of!r}.")
    values = getattr(weights, of)
    chosen = (values >= low) & (values <= high)
    error = np.abs(weights.latent.astype(np.float64) - weights.scaled)
    alpha = weights.alpha.reshape(-1, *[1] * (weights.latent.ndim - 1))
    n, total = int(chosen.sum()), float(error.sum())
    if not n:
        return Marked(chosen, 0, 0.0, np.nan, np.nan, np.nan, np.nan)
    return Marked(
        chosen,
        n,
        n / chosen.size,
        float((weights.sign[chosen] > 0).mean()),
        float((np.abs(weights.latent) < near_zero * alpha)[chosen].mean()),
        float(error[chosen].mean()),
        float(error[chosen].sum()) / total if total else 0.0,
    )
