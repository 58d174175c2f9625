"""What each branch of a layer adds to a pre-activation, and what changes when a branch is taken away.

The branches of a binary MLP are summed *before* the one batch norm (paper, Eq. 15). In eval mode that norm is affine,
``BN(v) = s v + (beta - s mean)`` with ``s = gamma / sqrt(var + eps)`` per channel, so a pre-activation is exactly::

    s W_P A_b + s W_S A_b^S + s W_L A_b^L + (beta - s mean) + shortcut(x)

That split is exact. Taking a branch away is an intervention, with a caveat: see :func:`switched_off`.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.binarization import CHUNK
from analysis.comparison import Progress, mcnemar_exact
from analysis.sampling import branch_labels, check_location, stays_inside
from bcdnet.evaluate import evaluating, wilson_interval
from bcdnet.layers import BinaryConv2d, BinaryMLP, ResidualUnit, branch_offsets, sample_tokens
from bcdnet.model import Network

#: How far a ledger goes: the batch norm's output, the pre-activation with its shortcut, the unit's output.
UPTO = ("norm", "shortcut", "activation")

#: Stands for all layers that have a branch.
EVERYWHERE = "everywhere"

#: A branch of a layer, or of all layers: (layer, branch).
Switch = tuple[str, str]


# -- the ledger -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ledger:
    """A map of the network as a sum of terms, for one image.

    Attributes:
        layer: name of the residual unit.
        upto: one of :data:`UPTO`.
        terms: name -> (C, H, W), in the order they are added: the branches of the layer, or their parts, scaled by the
            batch norm; "context", the offset of a context embedding (Eq. 21), scaled likewise; "bias", the rest of the
            batch norm; "shortcut"; "activation", what the RPReLU makes of the sum so far, less that sum.
        total: (C, H, W), the same map as the network itself computed it.
    """

    layer: str
    upto: str
    terms: dict[str, NDArray[np.float64]]
    total: NDArray[np.float64]

    @property
    def residual(self) -> float:
        """Largest ``|sum of the terms - total|`` over the largest ``|total|``: the network's rounding, about 1e-7."""
        error = np.abs(np.sum(list(self.terms.values()), axis=0) - self.total).max()
        return float(error / (np.abs(self.total).max() or 1.0))

    def token(self, row: int, col: int) -> pd.DataFrame:
        """The terms at one token: a row per channel with ``channel``, a column per term, and ``total``.

        Raises:
            ValueError: no such token.
        """
        check_location(self.layer, row, col, self.total.shape[1:])
        terms = {name: term[:, row, col] for name, term in self.terms.items()}
        total = self.total[:, row, col]
        return pd.DataFrame({"channel": np.arange(len(total)), **terms, "total": total})

    def channel(self, channel: int) -> dict[str, NDArray[np.float64]]:
        """The terms of one channel and "total" behind them, each (H, W).

        Raises:
            ValueError: no such channel.
        """
        if not 0 <= channel < len(self.total):
            raise ValueError(f"layer {self.layer} has the channels 0 to {len(self.total) - 1}, not {channel}.")
        return {name: term[channel] for name, term in [*self.terms.items(), ("total", self.total)]}


@dataclass(frozen=True)
class Entry:
    """What one looks at of a ledger: ``token``, a table of one token's channels, ``channel``, maps of one channel, both
    as :class:`Ledger` gives them, and the ``residual`` of the whole ledger."""

    token: pd.DataFrame
    channel: dict[str, NDArray[np.float64]]
    residual: float


def ledger_layers(model: Network) -> list[str]:
    """Layers with a ledger: every residual unit, those inside a Mixer block included."""
    return [layer for layer, _ in model.residual_units()]


def ledger(model: Network, x: Tensor, layer: str, upto: str = "shortcut", sources: bool = False) -> Ledger:
    """Split a map of a layer into what each branch, the bias and the shortcut add (paper, Eq. 15, 21 and Fig. 4).

    The bits are those of the network's own forward pass; their products are summed once more in double precision, so
    that :attr:`Ledger.residual` is the network's rounding and nothing else.

    Args:
        model: any network of the library as it is, outside :func:`switched_off` and :func:`zero_padded`; run in eval
            mode, left in its own.
        x: one normalised image (1, C, H, W).
        layer: one of :func:`ledger_layers`.
        upto: "norm", the batch norm's output; "shortcut", the whole pre-activation; "activation", the unit's output.
        sources: split branches further by the token they read: a convolution into its taps, "conv (-1, +1)", the short
            and long branches into their channel quarters, "short (-1, +0)", after the (row, column) offset. Offsets
            that lead to one token because the map is even stay apart.

    Raises:
        ValueError: no such layer, another ``upto``, not exactly one image, or of a shape the network cannot take.
    """
    unit = _unit(model, layer)
    if upto not in UPTO:
        raise ValueError(f"upto is {', '.join(UPTO[:-1])} or {UPTO[-1]}, not {upto!r}.")
    _check_one(x)
    with _recording({layer: unit}) as seen, evaluating(model), torch.no_grad():
        model(x.to(model.fc.weight))
    made = seen[layer]
    with torch.no_grad():
        terms, total = _norm_terms(unit, made, sources, torch.float64), made["bn"][1]
        if upto != "norm":
            terms["shortcut"], total = made["shortcut"][1].double(), made["act"][0]
        if upto == "activation":
            before = _sum(terms)
            terms["activation"], total = copy.deepcopy(unit.act).double()(before) - before, made["act"][1]
    arrays = {name: term.expand(total.shape)[0].cpu().numpy() for name, term in terms.items()}
    return Ledger(layer, upto, arrays, total[0].double().cpu().numpy())


def ledger_entry(
    model: Network,
    x: Tensor,
    layer: str,
    row: int,
    col: int,
    channel: int,
    upto: str = "shortcut",
    sources: bool = False,
) -> Entry:
    """One token and one channel of a :func:`ledger`, which takes little room where many are kept.

    Raises:
        ValueError: as :func:`ledger`; no such token or channel.
    """
    found = ledger(model, x, layer, upto, sources)
    maps = {name: map.copy() for name, map in found.channel(channel).items()}
    return Entry(found.token(row, col), maps, found.residual)


def term_rows(maps: Mapping[str, NDArray[np.float64]]) -> list[dict[str, NDArray[np.float64]]]:
    """The maps of :meth:`Ledger.channel` in rows to be looked at: branches, or the sources of each, then all the rest.

    Taps of a convolution lie as in its kernel.
    """
    sources: dict[str, list[str]] = {}
    for name in maps:
        sources.setdefault(name.partition(" (")[0], []).append(name)
    split = [names for names in sources.values() if len(names) > 1]
    rows = []
    for names in split:
        width = 4 if len(names) == 4 else round(len(names) ** 0.5)
        rows += [names[k : k + width] for k in range(0, len(names), width)]
    single = [names[0] for names in sources.values() if len(names) == 1]
    rest = [name for name in single if name in ("context", "bias", "shortcut", "activation", "total")]
    whole = [name for name in single if name not in rest]
    rows = [whole, *rows, rest] if len(whole) > 1 else [*rows, whole + rest]
    return [{name: maps[name] for name in row} for row in rows]


def shares_passes(n: int) -> int:
    """Cost of :func:`branch_shares` over ``n`` images: a pass, and every product once more."""
    return 2 * n


def branch_shares(model: Network, images: Tensor, progress: Progress | None = None) -> pd.DataFrame:
    """How much of each layer's pre-activations comes from each term, over several images.

    Two shares that answer different questions and each sum to 1 over a layer. Of the magnitude: ``mean |t|`` over the
    sum of it over all terms. Of the variance: ``sum_c cov(t_c, v_c) / sum_c var(v_c)`` with the pre-activation ``v``,
    the sum of the terms, over images and tokens; it is below 0 where a term runs against the sum, and 0 for the bias,
    which is the same everywhere.

    Args:
        model: any network of the library; run in eval mode, left in its own.
        images: normalised (N, C, H, W).
        progress: called with (images done, images in all) after every chunk; what it raises stops the work.

    Returns:
        Columns ``layer``, ``term``, ``magnitude`` (mean |t|), ``magnitude_share``, ``variance_share`` (NaN where the
        pre-activations never change), ``n`` images.

    Raises:
        ValueError: no image, or of a shape the network cannot take.
    """
    units = dict(model.residual_units())
    # Per layer: names, and sums over images and tokens of |t| (terms,), t and t v (terms, channels), and their count.
    names: dict[str, list[str]] = {}
    sums: dict[str, list[Any]] = {layer: [0, 0, 0, 0] for layer in units}
    with evaluating(model), torch.no_grad():
        for chunk in _chunks(model, images, progress):
            with _recording(units) as seen:
                model(chunk)
            for layer, unit in units.items():
                terms = _norm_terms(unit, seen[layer], False, torch.float32)
                terms["shortcut"] = seen[layer]["shortcut"][1]
                names[layer] = list(terms)
                t = torch.stack(torch.broadcast_tensors(*terms.values())).double()  # (terms, N, C, H, W)
                over = (1, 3, 4)
                here = t.abs().sum((1, 2, 3, 4)), t.sum(over), (t * t.sum(0)).sum(over), t[0, :, 0].numel()
                sums[layer] = [a + b for a, b in zip(sums[layer], here, strict=True)]
    rows = []
    for layer, (size, t, tv, n) in sums.items():
        covariance = (tv / n - (t / n) * (t.sum(0) / n)).sum(1)  # (terms,)
        rows += [
            {
                "layer": layer,
                "term": name,
                "magnitude": float(size[k]) / (n * t.shape[1]),
                "magnitude_share": float(size[k] / size.sum()),
                "variance_share": float(covariance[k] / covariance.sum()),
                "n": len(images),
            }
            for k, name in enumerate(names[layer])
        ]
    return pd.DataFrame(rows)


# -- branches switched off --------------------------------------------------------------------------------------------


def switches(model: Network) -> list[Switch]:
    """Every branch of every layer, in order, then those that several layers have, :data:`EVERYWHERE`.

    "shortcut" is a branch that every layer has and that can be switched off too, but is not listed.
    """
    every = [(layer, name) for layer, unit in model.residual_units() for name in branch_labels(unit.op)]
    branches = [branch for _, branch in every]
    return every + [(EVERYWHERE, branch) for branch in dict.fromkeys(branches) if branches.count(branch) > 1]


@contextmanager
def switched_off(model: Network, off: Iterable[Switch], means: Mapping[Switch, Tensor] | None = None) -> Iterator[None]:
    """Take branches away for a while; afterwards, also after an error, nothing of it is left in the network.

    Two ways, which are different questions. Without ``means`` a branch adds *nothing* (zero ablation): the batch norm
    behind the sum then meets values it was never normalised for, so a part of what changes is its statistics no longer
    fitting, and the effect overstates the branch. With ``means`` it adds the same *mean* whatever the picture (mean
    ablation): each channel keeps its mean before the norm, and only what the branch tells about this picture and this
    place is lost. Neither tells how well a network trained without the branch would do.

    Args:
        model: any network of the library.
        off: (layer, branch) pairs; see :func:`switches`. The branch "conv" of a convolution leaves the norm's bias, a
            context offset and the shortcut.
        means: what takes the branches' place, (layer, branch) -> (C_out,), from :func:`branch_means`.

    Raises:
        ValueError: no such layer or branch.
    """
    with ExitStack() as stack:
        for switch, module in _chosen(model, off).items():
            handle = module.register_forward_hook(_replacing(None if means is None else means[switch]))
            stack.callback(handle.remove)
        yield


def branch_means(model: Network, images: Tensor, progress: Progress | None = None) -> dict[Switch, Tensor]:
    """Mean output of every branch, shortcuts included, over images and tokens, before the batch norm.

    Args:
        model, images, progress: as for :func:`branch_shares`.

    Returns:
        (layer, branch) -> (C_out,).

    Raises:
        ValueError: no image, or of a shape the network cannot take.
    """
    sums: dict[Switch, list[Tensor]] = {}
    with _summing(model, sums):
        _predict(model, images, progress)
    return _means(sums, len(images))


def switch_effect(
    model: Network,
    x: Tensor,
    off: Iterable[Switch],
    reference: Tensor | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What switching branches off does to the logits of one image.

    Args:
        model: any network of the library; run in eval mode, left in its own.
        x: one normalised image (1, C, H, W).
        off: see :func:`switched_off`.
        reference: images (N, C, H, W) over which the branches' means are taken that stand in for them; None: nothing
            stands in.
        progress: as for :func:`branch_means` of ``reference``; never called without one.

    Returns:
        A row per class: ``index``; logits ``before``, ``after`` and their ``change``; probabilities ``p_before`` and
        ``p_after``.

    Raises:
        ValueError: no such layer or branch, not exactly one image, or of a shape the network cannot take.
    """
    means = None if reference is None else branch_means(model, reference, progress)
    return _effect(model, x, lambda: switched_off(model, off, means))


@dataclass(frozen=True)
class Knockout:
    """Switching branches off, on a set of images.

    Attributes:
        table: a row per set of switches, alone: ``name``; ``layer`` and ``branch``, "" where the set holds several;
            ``changed``, images whose predicted class changes; and, with labels, ``top1`` with its Wilson 95 % interval
            ``low``, ``high`` and ``difference`` to the whole network, all in percent, ``broken`` and ``mended``, images
            that turn from right to wrong and back, ``p`` of the McNemar test between the two, for this row alone.
        top1, low, high: of the whole network, in percent; NaN without labels.
        n: images.
        replaced: "zero" or "mean".
    """

    table: pd.DataFrame
    top1: float
    low: float
    high: float
    n: int
    replaced: str


def knockout_passes(model: Network, n: int, sets: Sequence[Sequence[Switch]] | None = None) -> int:
    """Forward passes of :func:`knockout` over ``n`` images."""
    return n * (1 + len(switches(model) if sets is None else sets))


def knockout(
    model: Network,
    images: Tensor,
    labels: Sequence[int] | None = None,
    sets: Sequence[Sequence[Switch]] | None = None,
    replace: str = "zero",
    progress: Progress | None = None,
) -> Knockout:
    """Switch branches off and count what happens to the predictions for a set of images.

    Args:
        model: any network of the library; run in eval mode, left in its own.
        images: normalised (N, C, H, W).
        labels: true classes, (N,); None: only changed predictions are counted.
        sets: what to switch off, one set after another; None: each of :func:`switches` alone.
        replace: what takes the place of a branch: "zero", nothing, or "mean", its mean over these images; see
            :func:`switched_off` for what that means.
        progress: called with (passes done, passes in all) after every chunk; what it raises stops the work.

    Raises:
        ValueError: no such layer or branch, another ``replace``, no image, not one label for each, or images of a shape
            the network cannot take.
    """
    if replace not in ("zero", "mean"):
        raise ValueError(f"replace is zero or mean, not {replace!r}.")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"there are {len(labels)} labels for {len(images)} images; give one for each.")
    tried = [(switch,) for switch in switches(model)] if sets is None else [tuple(off) for off in sets]
    for off in tried:
        _chosen(model, off)
    n, total = len(images), knockout_passes(model, len(images), tried)

    def predict(nth: int) -> NDArray[np.int64]:
        report = None if progress is None else lambda done, _: progress(nth * n + done, total)
        return _predict(model, images, report)

    sums: dict[Switch, list[Tensor]] = {}
    with _summing(model, sums):
        before = predict(0)
    means = _means(sums, n) if replace == "mean" else None
    truth = None if labels is None else np.asarray(labels)
    rows = []
    for nth, off in enumerate(tried, start=1):
        with switched_off(model, off, means):
            after = predict(nth)
        layer, branch = off[0] if len(off) == 1 else ("", "")
        row = {"name": " + ".join(map(" ".join, off)), "layer": layer, "branch": branch}
        rows.append(row | {"changed": int((after != before).sum())} | _paired(before, after, truth))
    right = 0 if truth is None else int((before == truth).sum())
    nan = float("nan")
    accuracy = (nan, nan, nan) if truth is None else (100 * right / n, *wilson_interval(right, n))
    return Knockout(pd.DataFrame(rows), *accuracy, n, replace)


# -- wrap-round against zero padding ----------------------------------------------------------------------------------


@contextmanager
def zero_padded(model: Network) -> Iterator[None]:
    """Let the tokens that binary MLPs read round the border be 0 for a while, as a convolution's padding is.

    The paper's shifts are cyclic (Eq. 11); a shift that leaves the map then brings 0 instead of the token from the
    opposite side. On even maps the long branch loses one of its two ways to each token. The network was not trained so.
    Afterwards, also after an error, nothing of it is left in the network.
    """
    with ExitStack() as stack:
        for _, unit in model.residual_units():
            if isinstance(unit.op, BinaryMLP):
                for kind, branch in zip(unit.op.kinds, unit.op.branches, strict=True):
                    stack.callback(branch.register_forward_pre_hook(_unwrapping(kind, unit.op.long_range)).remove)
        yield


def wrap_effect(model: Network, x: Tensor) -> pd.DataFrame:
    """What zero padding in place of wrap-round does to the logits of one image.

    Args:
        model: any network of the library, run in eval mode, left in its own; without binary MLPs nothing changes.
        x: one normalised image (1, C, H, W).

    Returns:
        As :func:`switch_effect`: ``before`` with wrap-round, ``after`` with zero padding.

    Raises:
        ValueError: not exactly one image, or of a shape the network cannot take.
    """
    return _effect(model, x, lambda: zero_padded(model))


# -- how --------------------------------------------------------------------------------------------------------------

#: Parts of a unit whose input and output a ledger needs.
_PARTS = ("op", "embedding", "bn", "shortcut", "act")
#: What one pass gave them and what they made of it: a map, or of an embedding its pair of vectors.
_Made = dict[str, tuple[Tensor, Any]]


def _unit(model: Network, layer: str) -> ResidualUnit:
    units = dict(model.residual_units())
    if layer not in units:
        raise ValueError(f"the network has no layer {layer!r} with a ledger; its layers are {', '.join(units)}.")
    return units[layer]


def _check_one(x: Tensor) -> None:
    if len(x) != 1:
        raise ValueError(f"give one image of shape (1, C, H, W), not {tuple(x.shape)}.")


@contextmanager
def _recording(units: Mapping[str, ResidualUnit]) -> Iterator[dict[str, _Made]]:
    """Collect what goes into and comes out of the parts of units."""
    seen: dict[str, _Made] = {layer: {} for layer in units}
    with ExitStack() as stack:
        for layer, unit in units.items():
            for part in _PARTS:
                if (module := getattr(unit, part)) is not None:

                    def record(
                        _: nn.Module, given: tuple, made: Any, into: _Made = seen[layer], part: str = part
                    ) -> None:
                        into[part] = given[0], made

                    stack.callback(module.register_forward_hook(record).remove)
        yield seen


def _norm_terms(unit: ResidualUnit, made: _Made, sources: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """What adds up to the output of a unit's batch norm, each (N or 1, C, H or 1, W or 1)."""
    bn = unit.bn
    assert bn.running_mean is not None and bn.running_var is not None
    scale = (bn.weight.to(dtype) / (bn.running_var.to(dtype) + bn.eps).sqrt())[:, None, None]
    terms = {name: scale * part for name, part in _products(unit.op, made["op"][0].to(dtype), sources).items()}
    if unit.embedding is not None:
        terms["context"] = scale * made["embedding"][1][1].to(dtype)[..., None, None]
    terms["bias"] = (bn.bias.to(dtype)[:, None, None] - scale * bn.running_mean.to(dtype)[:, None, None])[None]
    return terms


def _products(op: nn.Module, x: Tensor, sources: bool) -> dict[str, Tensor]:
    """What each branch of an operator, or each of its sources, makes of the operator's input."""
    labels = branch_labels(op)
    if not isinstance(op, BinaryMLP):
        assert isinstance(op, BinaryConv2d | nn.Conv2d)
        weight = (op.effective_weight() if isinstance(op, BinaryConv2d) else op.weight).to(x.dtype)
        groups = op.groups if isinstance(op, nn.Conv2d) else 1

        def convolve(weight: Tensor) -> Tensor:
            return F.conv2d(x, weight, None, op.stride, op.padding, groups=groups)

        reach = weight.shape[-1] // 2
        if not sources or not reach:
            return {labels[0]: convolve(weight)}
        found = {}
        for i, j in np.ndindex(*weight.shape[-2:]):
            tap = torch.zeros_like(weight)
            tap[..., i, j] = weight[..., i, j]
            found[_source(labels[0], (i - reach, j - reach))] = convolve(tap)
        return found
    found = {}
    for label, kind, branch in zip(labels, op.kinds, op.branches, strict=True):
        assert isinstance(branch, BinaryConv2d)
        tokens, weight = sample_tokens(x, kind, op.long_range), branch.effective_weight().to(x.dtype)
        if not sources or kind == "P":
            found[label] = F.conv2d(tokens, weight)
            continue
        offsets = branch_offsets(kind, x.shape[-2], x.shape[-1], op.long_range)
        for offset, t, w in zip(offsets, tokens.chunk(4, 1), weight.chunk(4, 1), strict=True):
            name = _source(label, offset)
            # Only where half a map is no token at all do two offsets have one name.
            found[name] = F.conv2d(t, w) + found.get(name, 0)
    return found


def _source(branch: str, offset: tuple[int, int]) -> str:
    return f"{branch} ({offset[0]:+d}, {offset[1]:+d})"


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    first, *rest = terms.values()
    for term in rest:
        first = first + term
    return first


def _branches(model: Network) -> dict[Switch, nn.Module]:
    """The module that computes each branch, shortcuts included."""
    found: dict[Switch, nn.Module] = {}
    for layer, unit in model.residual_units():
        parts = list(unit.op.branches) if isinstance(unit.op, BinaryMLP) else [unit.op]
        found |= {(layer, branch): part for branch, part in zip(branch_labels(unit.op), parts, strict=True)}
        found[layer, "shortcut"] = unit.shortcut
    return found


def _chosen(model: Network, off: Iterable[Switch]) -> dict[Switch, nn.Module]:
    """Those of :func:`_branches` that are to be switched off, :data:`EVERYWHERE` resolved."""
    every, chosen = _branches(model), dict[Switch, nn.Module]()
    for layer, branch in off:
        here = {key: part for key, part in every.items() if layer in (key[0], EVERYWHERE)}
        these = {key: part for key, part in here.items() if key[1] == branch}
        if not these:
            names = list(dict.fromkeys(name for _, name in here))
            has = f"it has {', '.join(names)}" if names else "there is no such layer"
            raise ValueError(f"there is no branch {branch!r} to switch off in {layer!r}: {has}.")
        chosen |= these
    return chosen


def _replacing(mean: Tensor | None) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
    """A forward hook that puts a mean (C,), or nothing, in the place of an output (N, C, H, W)."""
    if mean is None:
        return lambda module, given, made: torch.zeros_like(made)
    return lambda module, given, made: mean.to(made)[:, None, None].expand_as(made)


def _unwrapping(kind: str, long_range: int | str) -> Callable[[nn.Module, tuple], tuple]:
    """A forward pre-hook that zeroes the tokens (N, C, H, W) of a branch that came round the border."""

    def hook(module: nn.Module, given: tuple) -> tuple:
        (x,) = given
        inside = torch.from_numpy(stays_inside(kind, x.shape[-2], x.shape[-1], long_range)).to(x.device)
        return (x * inside.repeat_interleave(x.shape[1] // 4, 0),)

    return hook


@contextmanager
def _summing(model: Network, sums: dict[Switch, list[Tensor]]) -> Iterator[None]:
    """Collect, chunk by chunk, each branch's sum over images of its mean over tokens, (C,)."""
    with ExitStack() as stack:
        for switch, module in _branches(model).items():
            sums[switch] = []

            def add(_: nn.Module, given: tuple, made: Tensor, into: list[Tensor] = sums[switch]) -> None:
                into.append(made.double().mean((2, 3)).sum(0))

            stack.callback(module.register_forward_hook(add).remove)
        yield


def _means(sums: Mapping[Switch, list[Tensor]], n: int) -> dict[Switch, Tensor]:
    return {switch: torch.stack(parts).sum(0) / n for switch, parts in sums.items()}


def _chunks(model: Network, images: Tensor, progress: Progress | None) -> Iterator[Tensor]:
    """The images chunk by chunk, in the network's type; progress is told when a chunk has been used."""
    n = len(images)
    if not n:
        raise ValueError("there is no image to ask about; give at least one.")
    for start in range(0, n, CHUNK):
        yield images[start : start + CHUNK].to(model.fc.weight)
        if progress is not None:
            progress(min(start + CHUNK, n), n)


def _predict(model: Network, images: Tensor, progress: Progress | None) -> NDArray[np.int64]:
    """The class of each image, (N,)."""
    with evaluating(model), torch.no_grad():
        classes = [model(chunk).argmax(1) for chunk in _chunks(model, images, progress)]
    return torch.cat(classes).cpu().numpy()


def _effect(model: Network, x: Tensor, intervention: Callable[[], AbstractContextManager[None]]) -> pd.DataFrame:
    """Logits and probabilities of one image without and with an intervention."""
    _check_one(x)
    x = x.to(model.fc.weight)
    with evaluating(model), torch.no_grad():
        before = model(x)[0].double()
        with intervention():
            after = model(x)[0].double()
    logits = pd.DataFrame({"before": before.cpu().numpy(), "after": after.cpu().numpy()})
    table = logits.assign(change=logits.after - logits.before)
    table = table.assign(p_before=before.softmax(0).cpu().numpy(), p_after=after.softmax(0).cpu().numpy())
    return table.rename_axis("index").reset_index()


def _paired(
    before: NDArray[np.int64], after: NDArray[np.int64], truth: NDArray[np.int64] | None
) -> dict[str, float | int]:
    """Columns of :attr:`Knockout.table` that need labels; none without."""
    if truth is None:
        return {}
    was, now, n = before == truth, after == truth, len(truth)
    broken, mended, right = int((was & ~now).sum()), int((now & ~was).sum()), int(now.sum())
    low, high = wilson_interval(right, n)
    paired = {"difference": 100 * (mended - broken) / n, "broken": broken, "mended": mended}
    return {"top1": 100 * right / n, "low": low, "high": high, **paired, "p": mcnemar_exact(broken, mended)}
