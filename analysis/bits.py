"""Single bits of one image: how near each is to its threshold, what the context moves, which few decide the class.

Everything here is counted in exact forward passes, but one thing: the search for the fewest flips ranks bits by the
straight-through estimator's surrogate gradient, and then checks what it found by forward passes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.binarization import CHUNK, Progress, before_sign, binarization_error, entropy, recording_signs
from bcdnet.evaluate import evaluating
from bcdnet.layers import RSign
from bcdnet.model import Network

#: How :func:`fewest_flips` may rank the bits of a layer.
ORDERS = ("gradient", "margin", "random")


@dataclass(frozen=True)
class Margins:
    """How near the bits of one layer are to their thresholds, for one image.

    Attributes:
        layer: name of the residual unit.
        value: (C, H, W), the map minus its threshold, in the map's unit; the bit is +1 where it is at least 0.
        spread: (C,), standard deviation of each channel over the map (population).
        relative: (C, H, W), ``value / spread``; NaN in channels that are the same everywhere.
    """

    layer: str
    value: NDArray[np.float64]
    spread: NDArray[np.float64]
    relative: NDArray[np.float64]


def margins(model: Network, x: Tensor) -> dict[str, Margins]:
    """Margins of every bit of one image, in one forward pass; a context embedding's thresholds count.

    Args:
        model: any network of the library, run in eval mode; at real precisions, the bits that a sign would give.
        x: one normalised image (1, C, H, W).

    Returns:
        layer -> its margins, in the order of the layers with a sign.

    Raises:
        ValueError: not exactly one image, or of a shape the network cannot take.
    """
    _check_one(x)
    found = {}
    for layer, (values, _) in before_sign(model, x).items():
        value = values[0].double().cpu().numpy()
        spread = value.std((1, 2))
        # A constant channel's deviation comes out as rounding of its mean, not always as 0.
        spread[value.max((1, 2)) == value.min((1, 2))] = 0
        usable = np.where(spread > 0, spread, np.nan)
        found[layer] = Margins(layer, value, spread, value / usable[:, None, None])
    return found


@dataclass(frozen=True)
class TokenMargins:
    """Margins of one layer as one number a token.

    Attributes:
        layer: name of the residual unit.
        show: a channel, "nearest" or "mean", as in :func:`token_margins`.
        relative: as multiples of the channel's spread; else in the map's unit.
        value: (H, W); NaN where no channel has a margin to show. Means are distances and have no sign.
        channel: (H, W), that each is of; -1 for a mean.
    """

    layer: str
    show: int | str
    relative: bool
    value: NDArray[np.float64]
    channel: NDArray[np.int64]


def token_margins(found: Margins, show: int | str = "nearest", relative: bool = True) -> TokenMargins:
    """Margins of one layer as one number a token.

    Args:
        found: of one layer, from :func:`margins`.
        show: a channel; or "nearest", at each token the margin of the bit that is nearest to its threshold; or "mean",
            the mean distance of the token's bits from their thresholds.
        relative: as multiples of the channel's spread, which leaves out channels that are the same everywhere; else in
            the map's unit.

    Raises:
        ValueError: no such channel, or another word.
    """
    values = found.relative if relative else found.value
    channels, height, width = values.shape
    if show == "mean":
        known = ~np.isnan(values)
        count = known.sum(0)
        mean = np.abs(np.where(known, values, 0)).sum(0) / np.maximum(count, 1)
        return TokenMargins(found.layer, show, relative, np.where(count, mean, np.nan), np.full((height, width), -1))
    if show == "nearest":
        which = np.where(np.isnan(values), np.inf, np.abs(values)).argmin(0)
    elif isinstance(show, int) and 0 <= show < channels:
        which = np.full((height, width), show)
    else:
        raise ValueError(
            f"layer {found.layer} has the channels 0 to {channels - 1}, 'nearest' and 'mean', not {show!r}."
        )
    return TokenMargins(found.layer, show, relative, np.take_along_axis(values, which[None], 0)[0], which)


def layer_margins(
    model: Network, x: Tensor, layer: str, show: int | str = "nearest", relative: bool = True
) -> TokenMargins:
    """:func:`token_margins` of one layer of a network, for one image.

    Raises:
        ValueError: as there, and for a layer without a sign.
    """
    if layer not in (found := margins(model, x)):
        raise ValueError(f"the network has no sign in layer {layer!r}; choose one of {', '.join(found)}.")
    return token_margins(found[layer], show, relative)


def margin_distances(model: Network, x: Tensor, eps: float = 0.1, relative: bool = True) -> pd.DataFrame:
    """:func:`margin_summary` of every layer of a network, for one image."""
    return margin_summary(margins(model, x), eps, relative)


def margin_summary(
    found: Mapping[str, Margins],
    eps: float = 0.1,
    relative: bool = True,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> pd.DataFrame:
    """Distances of the bits from their thresholds, per layer.

    Args:
        found: from :func:`margins`.
        eps: a bit is near its threshold if its distance is below this.
        relative: distances as multiples of the channel's spread over the map; else in the map's unit.
        quantiles: of the distance, each in [0, 1].

    Returns:
        One row per layer: ``layer``; ``bits``; ``near``: share within eps; one column per quantile, named "q05" for
        0.05; ``constant``: share of channels that are the same everywhere, which have no relative distance and are left
        out of the other columns if ``relative``. NaN where nothing is left.
    """
    rows = []
    for layer, layer_margins in found.items():
        distance = np.abs(layer_margins.relative if relative else layer_margins.value)
        distance = distance[~np.isnan(distance)]
        row = {
            "layer": layer,
            "bits": layer_margins.value.size,
            "near": float((distance < eps).mean()) if distance.size else np.nan,
            "constant": float((layer_margins.spread == 0).mean()),
        }
        for q in quantiles:
            row[f"q{round(100 * q):02d}"] = float(np.quantile(distance, q)) if distance.size else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class DynamicBits:
    """What a context embedding's thresholds do to the bits of one image.

    Attributes:
        layers: one row per layer with an embedding: ``layer``; ``bits``; ``changed``, ``to_plus``, ``to_minus``: bits
            that differ, become +1 and become -1 when the layer's dynamic threshold is left out, on the same input of
            the sign; ``share = changed / bits``; ``logit_change``: largest absolute change of a logit when this layer's
            threshold alone is left out; ``share_all``: share of the layer's bits that differ when all are left out,
            which holds what the layers before have changed too.
        maps: layer -> int8 (C, H, W), +1 and -1 where leaving the threshold out, on the same input, makes the bit +1
            and -1, 0 where it stays.
        logits: of the network as it is, (num_classes,).
        static_logits: with every dynamic threshold left out.
    """

    layers: pd.DataFrame
    maps: dict[str, NDArray[np.int8]]
    logits: NDArray[np.float64]
    static_logits: NDArray[np.float64]


def dynamic_layers(model: Network) -> list[str]:
    """Layers whose thresholds a context embedding moves; none in a network without embeddings."""
    return [layer for layer, unit in model.residual_units() if unit.embedding is not None]


def dynamic_passes(model: Network) -> int:
    """Forward passes of :func:`dynamic_bits`: the network as it is, without all thresholds, and without each."""
    return 2 + len(dynamic_layers(model))


def dynamic_bits(model: Network, x: Tensor, progress: Progress | None = None) -> DynamicBits:
    """Dynamic against static thresholds (paper, Eq. 17 and 20): which bits and logits the context moves.

    Only the thresholds are left out; the offsets that the embedding adds behind the product (Eq. 21) stay, computed
    from the map that the layer then sees.

    Args:
        model: a network with context embeddings, run in eval mode.
        x: one normalised image (1, C, H, W).
        progress: called with (done, total) passes after each; raise in it to cancel.

    Raises:
        ValueError: a network without embeddings, not exactly one image, or of a shape the network cannot take.
    """
    names = dynamic_layers(model)
    if not names:
        raise ValueError("this network has no context embedding, so its thresholds are static; choose a BCDNet-B.")
    _check_one(x)
    report, total = progress or (lambda done, total: None), dynamic_passes(model)
    signs = {layer: _sign(model, layer) for layer in names}
    with evaluating(model), torch.no_grad():
        with recording_signs(model) as inputs:
            logits = model(x)[0]
        report(1, total)
        with _static(list(signs.values())), recording_signs(model) as static_inputs:
            static_logits = model(x)[0]
        report(2, total)
        rows, maps = [], {}
        for done, layer in enumerate(names, start=3):
            with _static([signs[layer]]):
                alone = model(x)[0]
            value, threshold = inputs[layer]
            dynamic, static = _bits(signs[layer], value, threshold), _bits(signs[layer], value)
            change = static.to(torch.int8) - dynamic.to(torch.int8)
            maps[layer] = change[0].cpu().numpy()
            changed = int(change.count_nonzero())
            rows.append(
                {
                    "layer": layer,
                    "bits": change.numel(),
                    "changed": changed,
                    "share": changed / change.numel(),
                    "to_plus": int((change > 0).sum()),
                    "to_minus": int((change < 0).sum()),
                    "logit_change": float((alone - logits).abs().max()),
                    "share_all": float((_bits(signs[layer], static_inputs[layer][0]) != dynamic).double().mean()),
                }
            )
            report(done, total)
    return DynamicBits(pd.DataFrame(rows), maps, logits.double().cpu().numpy(), static_logits.double().cpu().numpy())


def _bits(sign: RSign, value: Tensor, threshold: Tensor | None = None) -> Tensor:
    """Bits of a sign as bool (N, C, H, W), in the order of operations of its forward pass."""
    shift = sign.bias if threshold is None else sign.bias - threshold
    return value + shift[..., None, None] >= 0


@contextmanager
def _static(signs: Sequence[RSign]) -> Iterator[None]:
    """Let signs forget their dynamic thresholds for a while."""
    handles = [sign.register_forward_pre_hook(lambda module, args: args[:1]) for sign in signs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class BitFlips:
    """A set of bits of one layer whose flip changes the class: an upper bound of the fewest, not proven the fewest.

    Attributes:
        layer: whose sign's output was flipped.
        order: "gradient", "margin" or "random".
        bits: one row per flipped bit, by rank: ``layer``, ``channel``, ``row``, ``col``, ``before`` (-1 or +1, the bit
            as the network has it), ``margin`` (map minus threshold). Empty if none was found.
        found: whether the class changed within the budget.
        before, after: class without and with the flips; equal if none was found.
        logits: with the flips, (num_classes,), of the forward pass that verified them.
        prefix: length of the shortest prefix of the order found to change the class, before dropping; 0 if none.
        total: bits of the layer.
        size: (height, width) of the layer's map in tokens.
        irreducible: whether putting back any single bit was seen to restore the class: no bit is needless, though
            another, smaller set may exist.
        forwards: forward passes used, the ranking's included.
        trace: one row per trial: ``step`` ("grow", "bisect" or "drop"), ``flipped`` bits, ``gap`` (logit of the class
            before minus the largest other, or that of ``towards``), ``changed``.
    """

    layer: str
    order: str
    bits: pd.DataFrame
    found: bool
    before: int
    after: int
    logits: NDArray[np.float64]
    prefix: int
    total: int
    size: tuple[int, int]
    irreducible: bool
    forwards: int
    trace: pd.DataFrame

    @property
    def k(self) -> int | None:
        """Number of bits flipped; None if no flip of bits in this order was found to change the class."""
        return len(self.bits) if self.found else None


def flip_layers(model: Network) -> list[str]:
    """Layers whose bits can be flipped: those with a binary sign."""
    return [layer for layer, unit in model.residual_units() if unit.sign is not None and unit.sign.binary]


def flip_passes(budget: int = 200, orders: int = 1) -> int:
    """Most forward passes of :func:`fewest_flips`, or of :func:`compare_orders` with so many orders."""
    return budget * orders


def fewest_flips(
    model: Network,
    x: Tensor,
    layer: str,
    order: str = "gradient",
    towards: int | None = None,
    budget: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> BitFlips:
    """Search for the fewest bits of one layer's sign whose flip changes the class of one image.

    Bits are ranked once; then the first 1, 2, 4, … are flipped until the class changes, the number is bisected, and
    bits that are not needed are dropped, halves first, single bits last. Each trial is an exact forward pass with the
    sign's output changed by a hook, and the set returned is one that such a pass has verified. It is an upper bound of
    the fewest, not the minimum; and since more flips may also undo what fewer did, a search can end without a result
    where prefixes between the powers of two, which are not tried, would give one.

    Orders: "gradient" ranks by ``bit * d gap / d bit``, to first order half of what the flip takes off the gap, where
    the gap is the logit of the class minus that of ``towards``; behind later signs it is the straight-through
    surrogate. "margin" flips the bits nearest to their threshold first. "random" is a seeded permutation.

    Args:
        model: a network with binary activations, run in eval mode.
        x: one normalised image (1, C, H, W).
        layer: one of :func:`flip_layers`.
        order: one of :data:`ORDERS`.
        towards: class to reach; None: any other class, ranked by the gap to the runner-up.
        budget: most forward passes, at least 4.
        seed: of the random order.
        progress: called with (forwards used, budget) after each; a search may end before its budget does. Raise in it
            to cancel.

    Raises:
        ValueError: a layer without bits, an unknown order or class, too small a budget, not exactly one image, or of a
            shape the network cannot take.
    """
    _check_one(x)
    if layer not in (known := flip_layers(model)):
        has = f"choose one of {', '.join(known)}" if known else "its activations are real"
        raise ValueError(f"the network has no bits in layer {layer!r}; {has}.")
    if order not in ORDERS:
        raise ValueError(f"order is {', '.join(ORDERS[:-1])} or {ORDERS[-1]}, not {order!r}.")
    if budget < 4:
        raise ValueError(f"a search needs a budget of at least 4 forward passes, not {budget}.")
    with evaluating(model), torch.no_grad():
        seen = before_sign(model, x)[layer][0][0]
        search = _Search(model, x, layer, seen.shape, budget, progress or (lambda done, total: None))
        clean = search.forward()
        before = int(clean.argmax())
        rival = _rival(clean, before, towards)
        ranking = _ranking(search, order, seen, before, rival, seed)
        search.before, search.towards = before, towards
        prefix = _shortest_prefix(search, ranking)
        irreducible = bool(prefix) and _drop_needless(search)
    logits = search.best_logits if prefix else clean
    channel, row, col = np.unravel_index(search.best, seen.shape)
    margin = seen.double().cpu().numpy()[channel, row, col]
    bits = pd.DataFrame({"layer": layer, "channel": channel, "row": row, "col": col})
    bits = bits.assign(before=np.where(margin >= 0, 1, -1), margin=margin)
    trace = pd.DataFrame(search.trace, columns=["step", "flipped", "gap", "changed"])
    after, values = int(logits.argmax()), logits.double().cpu().numpy()
    total, size = seen.numel(), (seen.shape[1], seen.shape[2])
    return BitFlips(
        layer, order, bits, prefix > 0, before, after, values, prefix, total, size, irreducible, search.forwards, trace
    )


def compare_orders(
    model: Network,
    x: Tensor,
    layer: str,
    orders: Sequence[str] = ORDERS,
    towards: int | None = None,
    budget: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, BitFlips]:
    """:func:`fewest_flips` for several orders, each with the whole ``budget``; ``progress`` counts through all."""
    found = {}
    for nth, order in enumerate(orders):

        def report(done: int, total: int, nth: int = nth) -> None:
            if progress:
                progress(nth * budget + done, flip_passes(budget, len(orders)))

        found[order] = fewest_flips(model, x, layer, order, towards, budget, seed, report)
    return found


def flip_summary(found: Mapping[str, BitFlips]) -> pd.DataFrame:
    """One row per search: ``name``, ``layer``, ``found``, ``k``, ``prefix``, ``share``, classes, ``forwards`` …

    ``k`` and ``prefix`` (bits after and before dropping) and ``share`` of the layer's bits are NaN where nothing was
    found.
    """
    return pd.DataFrame(
        [
            {
                "name": name,
                "layer": flips.layer,
                "found": flips.found,
                "k": flips.k if flips.found else np.nan,
                "prefix": flips.prefix if flips.found else np.nan,
                "share": len(flips.bits) / flips.total if flips.found else np.nan,
                "before": flips.before,
                "after": flips.after,
                "irreducible": flips.irreducible,
                "forwards": flips.forwards,
            }
            for name, flips in found.items()
        ]
    )


@dataclass
class _Search:
    """Trials of one search: counts forward passes, keeps the smallest set that worked."""

    model: Network
    x: Tensor
    layer: str
    shape: torch.Size
    budget: int
    report: Progress
    before: int = 0
    towards: int | None = None
    forwards: int = 1  # the pass that showed the maps
    trace: list[tuple[str, int, float, bool]] = field(default_factory=list)
    best: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    best_logits: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def left(self) -> bool:
        return self.forwards < self.budget

    def forward(self, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Logits (num_classes,) with the sign's output, (1, C, H, W), changed."""
        hook = (lambda module, args, output: change(output)) if change else (lambda *_: None)
        handle = _sign(self.model, self.layer).register_forward_hook(hook)
        try:
            logits: Tensor = self.model(self.x)[0]
        finally:
            handle.remove()
        self.forwards += 1
        self.report(self.forwards, self.budget)
        return logits

    def changes(self, step: str, bits: NDArray[np.int64]) -> bool:
        """Flip these bits, counted flat over (C, H, W), and tell whether the class is now another (or ``towards``)."""

        def flip(output: Tensor) -> Tensor:
            flipped = output.flatten().clone()
            flipped[torch.from_numpy(bits).to(output.device)] *= -1
            return flipped.view_as(output)

        logits = self.forward(flip)
        after = int(logits.argmax())
        changed = after != self.before if self.towards is None else after == self.towards
        gap = float(logits[self.before] - logits[_rival(logits, self.before, self.towards)])
        self.trace.append((step, len(bits), gap, changed))
        if changed:
            self.best, self.best_logits = bits, logits
        return changed


def _rival(logits: Tensor, before: int, towards: int | None) -> int:
    """The class that the gap is measured to: ``towards``, or the largest other."""
    if towards is not None:
        if not 0 <= towards < len(logits) or towards == before:
            raise ValueError(f"choose a class from 0 to {len(logits) - 1} other than {before}, which it already is.")
        return towards
    others = logits.clone()
    others[before] = -torch.inf
    return int(others.argmax())


def _ranking(search: _Search, order: str, seen: Tensor, before: int, rival: int, seed: int) -> NDArray[np.int64]:
    """Flat indices of a layer's bits, those to flip first in front."""
    if order == "random":
        return torch.randperm(seen.numel(), generator=torch.Generator().manual_seed(seed)).numpy()
    if order == "margin":
        return seen.abs().flatten().argsort(stable=True).cpu().numpy()
    leaves: list[Tensor] = []

    def leaf(output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    with torch.inference_mode(False), torch.enable_grad():
        search.x = search.x.detach().clone()  # one made outside inference mode
        logits = search.forward(leaf)
        (gradient,) = torch.autograd.grad(logits[before] - logits[rival], leaves[0])
    effect = (leaves[0].detach() * gradient).flatten()
    return effect.argsort(descending=True, stable=True).cpu().numpy()


def _shortest_prefix(search: _Search, ranking: NDArray[np.int64]) -> int:
    """Length of a prefix that changes the class while the longest shorter one tried does not; 0 if none is found."""
    low, k = 0, 1
    while not search.changes("grow", ranking[:k]):
        if k == len(ranking) or not search.left:
            return 0
        low, k = k, min(2 * k, len(ranking))
    while low + 1 < k and search.left:
        middle = (low + k) // 2
        if search.changes("bisect", ranking[:middle]):
            k = middle
        else:
            low = middle
    return k


def _drop_needless(search: _Search) -> bool:
    """Drop bits from the best set, the last of the order first; True if every bit left was seen to be needed."""
    size = max(1, len(search.best) // 2)
    while True:
        dropped, stop = False, len(search.best)
        while stop > 0 and len(search.best) > 1:
            if not search.left:
                return False
            start = max(0, stop - size)
            rest = np.delete(search.best, np.s_[start:stop])
            dropped |= len(rest) > 0 and search.changes("drop", rest)
            stop = start
        if size > 1:
            size //= 2
        elif not dropped:
            return True


def information(model: Network, images: Tensor, progress: Progress | None = None) -> pd.DataFrame:
    """How much the bits of each layer can tell, over a set of images.

    The entropy of a bit that is +1 with probability p is ``-p log2 p - (1-p) log2 (1-p)``, with p the share counted; it
    is low by about ``1 / (2 N ln 2)`` bits on average where the true one is not near 0 (Miller 1955), so few images
    understate ``entropy_position``. Bits are judged one by one: the sum over a layer bounds its information from above.

    Args:
        model: any network of the library, run in eval mode; at real precisions, the bits that a sign would give.
        images: normalised, (N, C, H, W).
        progress: called with (done, total) images after each :data:`CHUNK`; raise in it to cancel.

    Returns:
        One row per layer with a sign: ``layer``; ``bits`` for one image; ``positive``: share of +1; ``balance``: mean
        bit, ``2 positive - 1``; ``entropy_channel``: of a channel's share over images and locations, mean over the
        channels; ``entropy_position``: of a bit's share over the images, mean over the bits; ``information``: its sum,
        in bits; ``constant``: share of bits that are the same in every image; ``n`` images.

    Raises:
        ValueError: no images, or of a shape the network cannot take.
    """
    if not len(images):
        raise ValueError("the entropy of bits needs at least one image.")
    counts: dict[str, NDArray[np.int64]] = {}
    done = 0
    for chunk in images.split(CHUNK):
        for layer, (values, _) in before_sign(model, chunk).items():
            count = (values >= 0).sum(0).cpu().numpy()  # (N, C, H, W) -> (C, H, W)
            counts[layer] = counts[layer] + count if layer in counts else count
        done += len(chunk)
        if progress:
            progress(done, len(images))
    rows = []
    for layer, count in counts.items():
        share = count / done
        per_position = entropy(share)
        rows.append(
            {
                "layer": layer,
                "bits": share.size,
                "positive": float(share.mean()),
                "balance": float(2 * share.mean() - 1),
                "entropy_channel": float(entropy(share.mean((1, 2))).mean()),
                "entropy_position": float(per_position.mean()),
                "information": float(per_position.sum()),
                "constant": float(((count == 0) | (count == done)).mean()),
                "n": done,
            }
        )
    return pd.DataFrame(rows)


def compare_errors(models: Mapping[str, Network]) -> pd.DataFrame:
    """Binarization error per layer and branch of several networks: one frame, with their names in column ``model``.

    The other columns are those of :func:`analysis.binarization.binarization_error` (paper, Eq. 23 and Fig. 6).

    Raises:
        ValueError: no network.
    """
    if not models:
        raise ValueError("choose at least one network to compare.")
    frames = [binarization_error(model).assign(model=name) for name, model in models.items()]
    frame = pd.concat(frames, ignore_index=True)
    return frame[["model", *frame.columns.drop("model")]]


def errors_by_block(errors: pd.DataFrame) -> pd.DataFrame:
    """Errors of :func:`compare_errors` averaged over the layers of each block, weighted by their numbers of weights.

    Returns:
        Columns ``model``, ``group``, ``branch``, ``l1``, ``mse``, ``relative``, ``n``.
    """
    measures, keys = ["l1", "mse", "relative"], ["model", "group", "branch"]
    weighted = errors[[*keys, "n"]].join(errors[measures].mul(errors.n, axis=0))
    sums = weighted.groupby(keys, sort=False).sum()
    return sums[measures].div(sums.n, axis=0).assign(n=sums.n).reset_index()


def _check_one(x: Tensor) -> None:
    if x.ndim != 4 or len(x) != 1:
        raise ValueError(f"give one image as (1, C, H, W), not {tuple(x.shape)}.")


def _sign(model: Network, layer: str) -> RSign:
    sign = model.units.get_submodule(layer).get_submodule("sign")
    assert isinstance(sign, RSign)
    return sign
