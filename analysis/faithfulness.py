"""Does a map say what the network does? Each score of a map stands beside that of a random map.

A random map holds the same values in shuffled places, so it shares everything with the map but where its evidence
lies. Random draws come from generators of our own; the global random state is never touched.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from captum.metrics import sensitivity_max
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from torch import Tensor

from analysis.attribution import (
    Attribution,
    Progress,
    attribute,
    cost_estimate,
    gradient_validity,
    rank_correlation,
    target_layers,
)
from analysis.binarization import activation_statistics
from analysis.methods import METHODS
from bcdnet.evaluate import evaluating
from bcdnet.model import Network

Array = NDArray[np.float64]

#: Rank correlation from which surrogate gradients are said to follow, or to follow roughly, forward perturbation.
FOLLOWS, ROUGHLY = 0.7, 0.4
#: Share of f(x) - f(b) that integrated gradients may leave unaccounted for and still be called complete.
COMPLETE = 0.1
#: Share of activations without a gradient from which a layer is said to be mostly dead.
MOSTLY_DEAD = 0.5

#: Images that :func:`sensitivity` draws.
SENSITIVITY_SAMPLES = 10

#: Methods whose map is a slope, in logits per unit of input; the others' maps are already changes of the logit.
_SLOPES = ("saliency", "smooth_grad")


@dataclass(frozen=True)
class Score:
    """One number for a map, and the same for random maps.

    Attributes:
        name: what was measured.
        value: of the map.
        random: of the random maps, (randoms,).
        better: "lower" or "higher".
    """

    name: str
    value: float
    random: Array
    better: str


@dataclass(frozen=True)
class Curves:
    """Deletion and insertion curves.

    Attributes:
        points: columns ``curve`` ("deletion", "insertion"), ``kind`` ("map", "random"), ``draw`` (0 for the map),
            ``share`` of the pixels changed so far, ``value`` of the explained output.
        deletion, insertion: their areas; a good map has a low and a high one.
        output: "probability" or "logit".
        forwards: images that were passed through the network.
    """

    points: pd.DataFrame
    deletion: Score
    insertion: Score
    output: str
    forwards: int


def curve_passes(steps: int = 28, randoms: int = 5) -> int:
    """Images that :func:`deletion_insertion` passes through the network."""
    return 2 + 2 * (steps - 1) * (1 + randoms)


def deletion_insertion(
    model: Network,
    x: Tensor,
    result: Attribution,
    grid: int | None = None,
    steps: int = 28,
    randoms: int = 5,
    output: str = "probability",
    baseline: Tensor | float | None = None,
    seed: int = 0,
    batch: int = 32,
    progress: Progress | None = None,
) -> Curves:
    """Delete pixels from the image, or insert them into the baseline, in the order of a map, highest first.

    Petsiuk et al., RISE, BMVC 2018, with one baseline for both curves (there: grey and a blurred image). The area is
    the trapezoidal one over the share of changed blocks. Ties in the map are broken at random, by ``seed``.

    Args:
        model: the network, run in eval mode and left as found.
        x: normalised image (1, C, H, W).
        result: the map, its target and ``against``.
        grid: change blocks of a grid of so many a side, in the order of their sums; None: single pixels.
        steps: equal steps from nothing to everything, at most one for each block or pixel.
        randoms: random maps.
        output: "probability" of the target as in RISE (with ``against``: of the two classes), or "logit".
        baseline: tensor that broadcasts to ``x`` or a number; None: black for grey images, else the mean.
        seed: of the random maps.
        batch: images a forward pass.
        progress: called after every batch of forward passes.

    Raises:
        ValueError: one sentence that says what to change.
    """
    x, nothing = _prepared(model, x, result, baseline)
    blocks = _blocks(x, grid)
    count = int(blocks.max()) + 1
    if not 1 <= steps <= count:
        raise ValueError(f"steps must be from 1 to {count}, the number of parts that are removed, not {steps}.")
    if output not in ("probability", "logit"):
        raise ValueError(f"output must be 'probability' or 'logit', not {output!r}.")
    _check_randoms(randoms)
    generator = torch.Generator().manual_seed(seed)
    sizes = [round(step * count / steps) for step in range(steps + 1)]
    ranks = [_ranks(_block_sums(m, blocks), generator) for m in _with_random(result.map, randoms, generator)]

    def images() -> Iterator[Tensor]:
        yield x[0]
        yield nothing[0]
        for rank in ranks:
            for size in sizes[1:-1]:
                top = torch.from_numpy(rank < size)[blocks]  # (H, W): the first ``size`` blocks of the map's order
                yield torch.where(top, nothing[0], x[0])
                yield torch.where(top, x[0], nothing[0])

    total = curve_passes(steps, randoms)
    values = _explained(model, images(), total, result, batch, progress, probability=output == "probability")
    whole, empty, inner = values[0], values[1], values[2:].reshape(1 + randoms, steps - 1, 2)
    share = np.array(sizes) / count
    parts, areas = [], {}
    for k, (curve, ends) in enumerate({"deletion": (whole, empty), "insertion": (empty, whole)}.items()):
        drawn = np.pad(inner[:, :, k], ((0, 0), (1, 1)))  # (1 + randoms, steps + 1)
        drawn[:, 0], drawn[:, -1] = ends
        areas[curve] = trapezoid(drawn, share, axis=1)
        for draw, line in enumerate(drawn):
            kind, number = ("map", 0) if draw == 0 else ("random", draw - 1)
            parts.append(pd.DataFrame({"curve": curve, "kind": kind, "draw": number, "share": share, "value": line}))
    return Curves(
        points=pd.concat(parts, ignore_index=True),
        deletion=_score("deletion area", areas["deletion"], "lower"),
        insertion=_score("insertion area", areas["insertion"], "higher"),
        output=output,
        forwards=total,
    )


def infidelity_passes(samples: int = 64) -> int:
    """Images that :func:`infidelity` passes through the network, however many random maps there are."""
    return samples + 1


def infidelity(
    model: Network,
    x: Tensor,
    result: Attribution,
    grid: int = 7,
    samples: int = 64,
    randoms: int = 5,
    baseline: Tensor | float | None = None,
    seed: int = 0,
    batch: int = 32,
    progress: Progress | None = None,
) -> Score:
    """How badly a map predicts the change of the logit when random blocks are removed: 0 exactly, 1 not at all.

    Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019: ``mean (b e - d)^2``, with d the true
    change f(x) - f(x with blocks removed), e the map's prediction of it and b the optimal scale, ``sum e d / sum e^2``,
    because maps of different methods have different units. Divided by ``mean d^2``, so that images and networks
    compare; NaN if no removal changes the logit. This is Captum's ``infidelity(normalize=True)`` over ``mean d^2``,
    computed here so that the map and all random ones are judged by one set of forward passes.

    A map of slopes (gradient, SmoothGrad) predicts ``sum map * (x - baseline)`` over the removed pixels; any other
    ``sum map``. On colour images a slope map, being a sum over colours, meets the mean over colours of
    ``x - baseline``.

    Args:
        model, x, result, baseline, seed, batch, progress, randoms: as for :func:`deletion_insertion`.
        grid: blocks a side; each is removed with probability 1/2.
        samples: random removals.

    Raises:
        ValueError: one sentence that says what to change.
    """
    x, nothing = _prepared(model, x, result, baseline)
    blocks = _blocks(x, grid)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}.")
    _check_randoms(randoms)
    generator = torch.Generator().manual_seed(seed)
    removed = torch.rand((samples, int(blocks.max()) + 1), generator=generator) < 0.5
    step = (x - nothing)[0].mean(0).double().cpu().numpy() if result.method in _SLOPES else 1.0
    maps = _with_random(result.map, randoms, generator)
    predicted = np.stack([removed.numpy() @ _block_sums(m * step, blocks) for m in maps])  # (1 + randoms, samples)

    def images() -> Iterator[Tensor]:
        yield x[0]
        for row in removed:
            yield torch.where(row[blocks], nothing[0], x[0])

    values = _explained(model, images(), samples + 1, result, batch, progress)
    change = values[0] - values[1:]
    power = (predicted**2).sum(1)
    scale = np.divide(predicted @ change, power, out=np.zeros_like(power), where=power > 0)
    errors = ((scale[:, None] * predicted - change) ** 2).mean(1)
    true = (change**2).mean()
    return _score("infidelity", errors / true if true > 0 else np.full_like(errors, np.nan), "lower")


def sensitivity_passes(model: Network, result: Attribution, samples: int = SENSITIVITY_SAMPLES, **options: Any) -> int:
    """Images that :func:`sensitivity` passes through the network."""
    return (samples + 1) * cost_estimate(model, result.method, result.map.shape, **options)


def sensitivity(
    model: Network,
    x: Tensor,
    result: Attribution,
    radius: float = 0.02,
    samples: int = SENSITIVITY_SAMPLES,
    randoms: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Score:
    """How much a map changes, at most, when the image changes imperceptibly: max ||map(x + d) - map(x)|| / ||map(x)||.

    Yeh et al., NeurIPS 2019; Captum's ``sensitivity_max`` with noise from a generator of our own. Every map is
    computed with the same ``seed``, so only the image differs. Beside it: the same ratio for maps that have nothing to
    do with the image, a random one against another. NaN for a map that is zero everywhere.

    Args:
        model, x, progress: as for :func:`deletion_insertion`.
        result: the map to be repeated; its method, layer, target and ``against`` are used.
        radius: d is uniform in +- ``radius`` per value of the normalised image.
        samples: images drawn.
        randoms: pairs of random maps.
        seed: of the noise, the method's own draws and the random maps.
        **options: the method's, as ``result`` was made with.

    Raises:
        ValueError: one sentence that says what to change.
    """
    if samples < 1 or radius <= 0:
        raise ValueError(f"samples must be at least 1 and radius above 0, not {samples} and {radius}.")
    _check_randoms(randoms)
    generator = torch.Generator().manual_seed(seed)
    explain = _Repeated(result, seed, sensitivity_passes(model, result, samples, **options), progress, options)

    def maps(images: Tensor | tuple[Tensor]) -> tuple[Tensor]:
        """(N, C, H, W) -> (N, H, W); Captum puts the original image, and it alone, into a tuple.

        A tuple must come back: of a bare tensor Captum would take the norm row by row.
        """
        batch = images[0] if isinstance(images, tuple) else images
        return (torch.stack([torch.from_numpy(explain(model, image[None]).map) for image in batch]),)

    def noisy(images: Tensor, radius: float) -> Tensor:
        return images + radius * (torch.rand(images.shape, generator=generator).to(images) * 2 - 1)

    value = sensitivity_max(maps, x, noisy, perturb_radius=radius, n_perturb_samples=samples, max_examples_per_batch=1)
    norm = np.linalg.norm(result.map)
    if norm == 0:
        return Score("sensitivity", float("nan"), np.full(randoms, np.nan), "lower")
    pairs = [_with_random(result.map, 2, generator)[1:] for _ in range(randoms)]
    random = np.array([np.linalg.norm(a - b) / norm for a, b in pairs])
    return Score("sensitivity", value.item(), random, "lower")


@dataclass(frozen=True)
class Judgement:
    """A map and how far it says what the network does: its curves, its infidelity and its sensitivity."""

    result: Attribution
    curves: Curves
    infidelity: Score
    sensitivity: Score


def judge_passes(model: Network, method: str, **options: Any) -> int:
    """Images that :func:`judge` passes through the network (a gradient costs about two more each)."""
    return sum(_judge_parts(model, method, options))


def _judge_parts(model: Network, method: str, options: dict[str, Any]) -> tuple[int, int, int, int]:
    """Of the map, its curves, its infidelity and its sensitivity."""
    once = cost_estimate(model, method, **options)
    return once, curve_passes(), infidelity_passes(), (1 + SENSITIVITY_SAMPLES) * once


def judge(
    model: Network,
    x: Tensor,
    target: int,
    method: str = "grad_cam",
    layer: str | None = None,
    against: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Judgement:
    """Make a map and judge it by every score of this module, each beside random maps.

    Args:
        model, x, target, method, layer, against, progress, **options: as for :func:`analysis.attribution.attribute`.

    Raises:
        ValueError: one sentence that says what to change.
    """
    parts = _judge_parts(model, method, options)
    told = [None if progress is None else _shifted(progress, sum(parts[:k]), sum(parts)) for k in range(len(parts))]
    result = attribute(model, x, target, method, layer, against, progress=told[0], **options)
    curves = deletion_insertion(model, x, result, progress=told[1])
    unfaithful = infidelity(model, x, result, progress=told[2])
    changing = sensitivity(model, x, result, progress=told[3], **options)
    return Judgement(result, curves, unfaithful, changing)


def randomise_passes(model: Network, method: str, **options: Any) -> int:
    """Images that :func:`randomise` passes through the network (a gradient costs about two more each)."""
    return (1 + len(randomisation_stages(model))) * cost_estimate(model, method, **options)


def randomise(
    model: Network,
    x: Tensor,
    target: int,
    method: str = "grad_cam",
    layer: str | None = None,
    against: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Make a map and put it to :func:`parameter_randomisation`; arguments as for :func:`judge`."""
    total = randomise_passes(model, method, **options)
    told = None if progress is None else _shifted(progress, 0, total)
    result = attribute(model, x, target, method, layer, against, progress=told, **options)
    told = None if progress is None else _shifted(progress, result.forwards, total)
    return parameter_randomisation(model, x, result, progress=told, **options)


def scores(found: Sequence[Score]) -> pd.DataFrame:
    """Scores as a table.

    Returns:
        Index ``score``; ``value``; ``random_mean`` and ``random_std`` (population) over the random maps; ``better``
        ("lower", "higher"); ``beats``: share of random maps that the map beats.
    """
    rows = [
        {
            "score": s.name,
            "value": s.value,
            "random_mean": s.random.mean(),
            "random_std": s.random.std(),
            "better": s.better,
            "beats": ((s.value < s.random) if s.better == "lower" else (s.value > s.random)).mean(),
        }
        for s in found
    ]
    columns = ["score", "value", "random_mean", "random_std", "better", "beats"]
    return pd.DataFrame(rows, columns=columns).set_index("score")


def randomisation_stages(model: Network) -> dict[str, list[str]]:
    """Stages of the parameter-randomisation check, last first: stage -> names of its modules.

    The head, every group of blocks (its units together) and the stem.
    """
    stages: dict[str, list[str]] = {"fc": ["fc"]}
    for layer in reversed(target_layers(model)):
        if layer == "stem":
            stages["stem"] = ["stem"]
        else:
            stages.setdefault(layer.rpartition("_")[0] or layer, []).append(f"units.{layer}")
    return stages


def randomisation_passes(model: Network, result: Attribution, **options: Any) -> int:
    """Images that :func:`parameter_randomisation` passes through the network."""
    return len(randomisation_stages(model)) * cost_estimate(model, result.method, result.map.shape, **options)


def parameter_randomisation(
    model: Network,
    x: Tensor,
    result: Attribution,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Randomise the parameters of a copy from the last stage to the first; a map that stays does not show the network.

    Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, the cascading test. Every parameter tensor has its
    own values shuffled, where the paper initialises anew: scales stay those of the trained network, so activations
    keep their range. Normalisation statistics stay.

    Args:
        model: the network; only a deep copy is changed.
        x, result, progress, **options: as for :func:`sensitivity`; ``result`` is the trained network's map.
        seed: of the shuffling and the method's own draws, as ``result`` was made with.

    Returns:
        One row a stage, cumulative, "trained" first: ``stage``; ``layers``, the names of what was randomised in it;
        ``similarity``: Spearman's rank correlation of the map with the trained network's; ``absolute``: the same of
        their magnitudes, as the paper also has it; NaN where a map is constant or not finite.
    """
    explain = _Repeated(result, seed, randomisation_passes(model, result, **options), progress, options)
    generator = torch.Generator().manual_seed(seed)
    changed, original = copy.deepcopy(model), result.raw
    rows: list[tuple[str, str, float, float]] = []

    def compare(stage: str, layers: Sequence[str], raw: Array) -> None:
        similar = rank_correlation(original, raw), rank_correlation(np.abs(original), np.abs(raw))
        rows.append((stage, ", ".join(layers), *similar))

    compare("trained", [], original)
    for stage, modules in randomisation_stages(model).items():
        for name in modules:
            _shuffle_parameters(changed.get_submodule(name), generator)
        compare(stage, [name.removeprefix("units.") for name in modules], explain(changed, x).raw)
    return pd.DataFrame(rows, columns=["stage", "layers", "similarity", "absolute"])


@dataclass(frozen=True)
class SurrogateMeter:
    """How far surrogate gradients can be believed for one image and logit.

    Attributes:
        correlations: one row a method: ``method``, ``title``, ``correlation``, Spearman's, of its block sums with
            ``ablation``; NaN if either is constant.
        blocks: method -> block sums (grid, grid) of its map, slopes multiplied by x - baseline.
        ablation: (grid, grid), change of the logit when the block is removed: forward passes only.
        residual: integrated gradients' sum less f(x) - f(b).
        output_change: f(x) - f(b).
        incompleteness: ``|residual| / |output_change|``; NaN if the latter is 0.
        dead: ``layer`` and ``clipped``, share of activations whose surrogate gradient is 0.
        validity: "surrogate", or "exact" where no sign is in the way.
        verdict: sentences by the thresholds FOLLOWS, ROUGHLY, COMPLETE and MOSTLY_DEAD.
        forwards: images that were passed through the network.
    """

    correlations: pd.DataFrame
    blocks: dict[str, Array]
    ablation: Array
    residual: float
    output_change: float
    incompleteness: float
    dead: pd.DataFrame
    validity: str
    verdict: tuple[str, ...]
    forwards: int


_METERED = ("saliency", "input_x_gradient", "smooth_grad", "integrated_gradients")


def surrogate_passes(model: Network, image_size: tuple[int, int] | None = None, grid: int = 7, steps: int = 50) -> int:
    """Images that :func:`surrogate_meter` passes through the network (a gradient costs about two more each)."""
    return 1 + sum(
        cost_estimate(model, method, image_size, **_metered_options(method, grid, steps, {}))
        for method in ("feature_ablation", *_METERED)
    )


def surrogate_meter(
    model: Network,
    x: Tensor,
    target: int,
    against: int | None = None,
    grid: int = 7,
    steps: int = 50,
    baseline: Tensor | float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SurrogateMeter:
    """Compare gradient methods with what forward passes alone find on the same blocks.

    A rank correlation below 1 need not be the surrogate's fault: removing a block is a large step, a gradient a small
    one, also in a network without signs. The same meter on such a network tells how much that costs.

    Args:
        model, x, seed, progress: as for :func:`analysis.attribution.attribute`.
        target, against: class explained; with ``against``, the difference of the two logits.
        grid: blocks a side, for block ablation and for the sums of the gradient maps.
        steps: of integrated gradients.
        baseline: what a removed block shows, as for :func:`deletion_insertion`.

    Raises:
        ValueError: one sentence that says what to change.
    """
    nothing = _baseline_image(model, x, baseline)
    total, done = surrogate_passes(model, (x.shape[2], x.shape[3]), grid, steps), 0

    def explain(method: str) -> Attribution:
        nonlocal done
        options = _metered_options(method, grid, steps, {"baseline": nothing})
        reporter = None if progress is None else _shifted(progress, done, total)
        found = attribute(model, x, target, method, None, against, seed, reporter, **options)
        done += found.forwards
        return found

    ablation = explain("feature_ablation").raw
    parts = _blocks(x, grid)
    step = (x - nothing)[0].mean(0).double().cpu().numpy()
    blocks, rows, integrated = {}, [], None
    for method in _METERED:
        found = explain(method)
        if method == "integrated_gradients":
            integrated = found
        sums = _block_sums(found.map * (step if method in _SLOPES else 1.0), parts)
        blocks[method] = sums.reshape(grid, grid)
        rows.append((method, METHODS[method].title, rank_correlation(blocks[method], ablation)))
    assert integrated is not None and integrated.residual is not None and integrated.output_change is not None
    dead = activation_statistics(model, x.detach().to(model.fc.weight)).reindex(columns=["layer", "clipped"])
    done += 1
    if progress is not None:
        progress(done, total)
    change = integrated.output_change
    incompleteness = abs(integrated.residual / change) if change else float("nan")
    correlations = pd.DataFrame(rows, columns=["method", "title", "correlation"])
    validity = gradient_validity(model)
    return SurrogateMeter(
        correlations=correlations,
        blocks=blocks,
        ablation=ablation,
        residual=integrated.residual,
        output_change=change,
        incompleteness=incompleteness,
        dead=dead,
        validity=validity,
        verdict=surrogate_verdict(correlations, incompleteness, dead, validity),
        forwards=done,
    )


def surrogate_verdict(
    correlations: pd.DataFrame, incompleteness: float, dead: pd.DataFrame, validity: str
) -> tuple[str, ...]:
    """The meter in words: gradients against ablation, completeness, dead zone; arguments as in SurrogateMeter."""
    known = correlations.dropna(subset="correlation")
    said = []
    if known.empty:
        said.append("No rank correlation exists: a map is constant, so ask forward methods such as occlusion.")
    else:
        best = known.sort_values("correlation").iloc[-1]
        strength = (
            "follow" if best.correlation >= FOLLOWS else "roughly follow" if best.correlation >= ROUGHLY else "miss"
        )
        advice = "" if strength == "follow" else " Believe occlusion or block ablation rather than gradients here."
        said.append(
            f"Gradients {strength} what forward passes find: at best {best.correlation:.2f} ({best.title}; "
            f"{FOLLOWS} and more is called follow, {ROUGHLY} and more roughly).{advice}"
        )
    if np.isnan(incompleteness):
        said.append("Removing everything leaves the logit as it was, so completeness says nothing.")
    else:
        kept = "are complete" if incompleteness <= COMPLETE else "are not complete"
        said.append(
            f"Integrated gradients {kept}: {incompleteness:.0%} of the logit's change is unaccounted for "
            f"(up to {COMPLETE:.0%} is called complete)."
        )
    if validity == "exact":
        said.append("No sign stands between image and logits, so no gradient is lost in a dead zone.")
    elif not dead.empty:
        worst = dead.sort_values("clipped").iloc[-1]
        mostly = int((dead.clipped >= MOSTLY_DEAD).sum())
        said.append(
            f"{mostly} of {len(dead)} layers lose the gradient of {MOSTLY_DEAD:.0%} of their activations or more; "
            f"the most is {worst.clipped:.0%}, in {worst.layer}."
        )
    return tuple(said)


@dataclass
class _Repeated:
    """Calls ``attribute`` as ``result`` was made, counting forward passes across the calls."""

    result: Attribution
    seed: int
    total: int
    progress: Progress | None
    options: dict[str, Any]
    done: int = 0

    def __call__(self, model: Network, x: Tensor) -> Attribution:
        reporter = None if self.progress is None else _shifted(self.progress, self.done, self.total)
        r = self.result
        found = attribute(model, x, r.target, r.method, r.layer, r.against, self.seed, reporter, **self.options)
        self.done += found.forwards
        return found


def _shifted(progress: Progress, done: int, total: int) -> Callable[[int, int], object]:
    """Progress of a part that starts after ``done`` of ``total`` passes."""
    return lambda part, _: progress(done + part, total)


def _metered_options(method: str, grid: int, steps: int, baseline: dict[str, Any]) -> dict[str, Any]:
    if method == "feature_ablation":
        return {"grid": grid, **baseline}
    return {"steps": steps, **baseline} if method == "integrated_gradients" else {}


def _prepared(model: Network, x: Tensor, result: Attribution, baseline: Any) -> tuple[Tensor, Tensor]:
    """Image and baseline, (1, C, H, W) each, in the network's type."""
    if x.ndim != 4 or x.shape[0] != 1:
        raise ValueError(f"a map is judged on one image of shape (1, C, H, W), not {tuple(x.shape)}.")
    model.check_input(x)
    if result.map.shape != x.shape[2:]:
        raise ValueError(f"the map {result.map.shape} must have the image's size {tuple(x.shape[2:])}.")
    if not np.isfinite(result.map).all():
        raise ValueError("the map has values that are not finite; look at its notes before judging it.")
    x = x.detach().to(model.fc.weight)
    return x, _baseline_image(model, x, baseline)


def _baseline_image(model: Network, x: Tensor, baseline: Any) -> Tensor:
    """What a removed pixel shows, shape of ``x``; None: black for grey images whose card says what black is, else 0."""
    preprocess = model.card.get("preprocess")
    if baseline is None:
        baseline = -preprocess["mean"][0] / preprocess["std"][0] if preprocess and x.shape[1] == 1 else 0.0
    given = torch.as_tensor(baseline).to(x)
    try:
        return given.expand_as(x)
    except RuntimeError as error:
        raise ValueError(f"a baseline must broadcast to {tuple(x.shape)}, not {tuple(given.shape)}.") from error


def _check_randoms(randoms: int) -> None:
    if randoms < 1:
        raise ValueError(f"randoms must be at least 1, or there is nothing to compare with, not {randoms}.")


def _blocks(x: Tensor, grid: int | None) -> Tensor:
    """Number of the part each pixel lies in, (H, W): of a grid of blocks as in block ablation, or its own."""
    height, width = x.shape[2:]
    if grid is None:
        return torch.arange(height * width).reshape(height, width)
    if not 1 <= grid <= min(height, width):
        raise ValueError(f"grid must be from 1 to {min(height, width)} blocks a side, not {grid}.")
    rows, columns = (torch.arange(side) * grid // side for side in (height, width))
    return rows[:, None] * grid + columns[None, :]


def _block_sums(map: Array, blocks: Tensor) -> Array:
    """Sum of a map (H, W) over each block, (blocks,)."""
    return np.bincount(blocks.numpy().ravel(), map.ravel()).astype(np.float64)


def _with_random(map: Array, randoms: int, generator: torch.Generator) -> list[Array]:
    """The map, then the same values in shuffled places."""
    orders = (torch.randperm(map.size, generator=generator).numpy() for _ in range(randoms))
    return [map, *(map.ravel()[order].reshape(map.shape) for order in orders)]


def _ranks(values: Array, generator: torch.Generator) -> NDArray[np.intp]:
    """Place of each value in falling order, equal ones in random order."""
    order = np.lexsort((torch.randperm(values.size, generator=generator).numpy(), -values))
    return np.argsort(order)


def _explained(
    model: Network,
    images: Iterator[Tensor],
    total: int,
    result: Attribution,
    batch: int,
    progress: Progress | None,
    probability: bool = False,
) -> Array:
    """The explained logit, or probability, of ``total`` images (C, H, W), which are made a batch at a time."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}.")
    values: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for start in range(0, total, batch):
            stacked = torch.stack([next(images) for _ in range(min(batch, total - start))])
            logits = model(stacked).double()
            if result.against is not None:
                logit = logits[:, result.target] - logits[:, result.against]
                values.append(logit.sigmoid() if probability else logit)
            else:
                values.append((logits.softmax(1) if probability else logits)[:, result.target])
            if progress is not None:
                progress(start + len(stacked), total)
    return torch.cat(values).cpu().numpy()


def _score(name: str, values: Array, better: str) -> Score:
    """Of the map's value, first, and those of the random maps."""
    return Score(name, float(values[0]), values[1:], better)


def _shuffle_parameters(module: torch.nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
