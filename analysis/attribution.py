"""Which pixels speak for a class, and how far each method can be believed on a binarised network.

Between image and logits of a 1/1 network stand signs, whose true gradient is zero almost everywhere. A method that
needs gradients *through* them gets those of the straight-through estimator instead: a surrogate. A method that only
runs the network forward is exact. So is Grad-CAM at the last unit, because only pooling and a linear head follow it.

The methods are Captum's. Random draws come from generators of our own, so the global random state is never touched.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from captum.attr import (
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
)
from scipy.stats import spearmanr
from torch import Tensor, nn

from analysis.methods import METHODS
from bcdnet.evaluate import evaluating
from bcdnet.layers import RPReLU, RSign
from bcdnet.model import Network

#: Called with (forward passes done, forward passes in all); whatever it raises stops the work.
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Attribution:
    """A map of evidence and what is needed to judge it.

    Attributes:
        map: float64 (H, W) at input size; positive speaks for the target, negative against it.
        raw: the same before enlarging: layer resolution for Grad-CAM, (grid, grid) for block methods, else ``map``.
        method, layer: what was run; ``layer`` is None for methods on the input.
        target, against: class explained; with ``against``, the difference of the two logits.
        forwards: images that were passed through the network.
        validity: "exact" or "surrogate" for this network and layer.
        output_change: f(x) - f(b), for methods whose map ought to sum to it; else None.
        residual: sum of ``raw`` minus ``output_change``; 0 if the method keeps its promise.
        notes: plain sentences to show beside the map.
    """

    map: np.ndarray
    raw: np.ndarray
    method: str
    layer: str | None
    target: int
    against: int | None
    forwards: int
    validity: str
    output_change: float | None = None
    residual: float | None = None
    notes: tuple[str, ...] = ()


def gradient_validity(model: Network, layer: str | None = None) -> str:
    """Say "exact" if no sign follows ``layer`` (None: the input), else "surrogate".

    Only binary *activations* matter: binary weights are constants to the image, and a real-activation network is
    differentiable in its input however its weights are stored.
    """
    names = list(model.units._modules)
    following = names if layer in (None, "stem") else names[names.index(layer) + 1 :]
    signs = (m for name in following for m in model.units.get_submodule(name).modules() if isinstance(m, RSign))
    return "surrogate" if any(sign.binary for sign in signs) else "exact"


def method_status(model: Network) -> pd.DataFrame:
    """How far each method can be believed on this network, found by walking its modules.

    Returns:
        Index ``key`` in the order of METHODS; columns ``title``, ``validity`` ("exact", "surrogate", "invalid"),
        ``why``, ``per_layer``, ``runnable``.
    """
    gradients = gradient_validity(model)
    modules = list(model.modules())
    relus = sum(isinstance(m, nn.ReLU) for m in modules)
    signs = sum(isinstance(m, RSign) and m.binary for m in modules)
    prelus = sum(isinstance(m, RPReLU) for m in modules)
    found = f" Found here: {signs} signs, {prelus} PReLUs, {relus} nn.ReLU."
    rows = []
    for method in METHODS.values():
        validity, why = method.validity, method.why
        if validity == "surrogate" and gradients == "exact":
            validity, why = "exact", "No sign stands between image and logits, so its gradients are the true ones."
        elif validity == "invalid":
            why += found
        rows.append((method.key, method.title, validity, why, method.per_layer, validity != "invalid"))
    columns = ["key", "title", "validity", "why", "per_layer", "runnable"]
    return pd.DataFrame(rows, columns=columns).set_index("key")


def target_layers(model: Network) -> list[str]:
    """Layers whose maps Grad-CAM can use: "stem" and every entry of ``model.units``, in order.

    Each is an output (N, C, H, W) that is computed once per forward pass. Modules inside units are left out: the sign
    has values +-1 only, and a Mixer block's inner units hold tokens where others hold channels.
    """
    return ["stem", *model.units._modules]


def default_layer(model: Network) -> str:
    """The last unit: the only layer where Grad-CAM is exact on a binarised network.

    Pooling and a linear head follow it, so its map sums to the logit less the head's bias.
    """
    return target_layers(model)[-1]


def cost_estimate(model: Network, method: str, image_size: tuple[int, int] | None = None, **options: Any) -> int:
    """Images that :func:`attribute` will pass through the network (a gradient costs about two more each).

    Args:
        model: the network.
        method: key of METHODS.
        image_size: (height, width); the network's own if None.
        **options: as for :func:`attribute`.
    """
    size = model.config.image_size if image_size is None else image_size
    chosen = _options(method, size, options)
    if method in ("grad_cam", "saliency", "input_x_gradient"):
        return 1
    if method == "smooth_grad":
        return int(chosen["samples"])
    if method == "integrated_gradients":
        return int(chosen["steps"]) + 2
    if method == "occlusion":
        window, stride = chosen["window"], chosen["stride"]
        rows, cols = (-(-(side - window) // stride) + 1 for side in size)
        return 1 + rows * cols
    regions = chosen["regions"] if method == "feature_ablation" else None
    features = chosen["grid"] ** 2 if regions is None else len(np.unique(regions))
    return features * chosen["samples"] + 3 if method == "shapley_value_sampling" else features + 1


def attribute(
    model: Network,
    x: Tensor,
    target: int,
    method: str = "grad_cam",
    layer: str | None = None,
    against: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Attribution:
    """Attribute one logit, or the difference of two, to the pixels of one image.

    The network is run in eval mode and left as it was found: modes, gradients, hooks and the global random state,
    also when ``progress`` raises. It must not be used by another thread meanwhile.

    Args:
        model: the network.
        x: normalised image (1, C, H, W).
        target: class to explain.
        method: key of METHODS that is not "invalid".
        layer: for Grad-CAM, one of :func:`target_layers`; :func:`default_layer` if None.
        against: explain logit(target) - logit(against), "why this and not that".
        seed: of the method's random draws.
        progress: called after every batch of forward passes.
        **options: see ``METHODS[method].options``. ``baseline`` is "black", "mean" (0 after normalisation), a number
            or a tensor that broadcasts to ``x``; by default black for grey images, else the mean. ``window`` and
            ``stride`` in pixels; ``grid`` blocks a side; ``regions`` an int array (H, W) of own segments; ``batch``
            images a forward pass.

    Raises:
        ValueError: one sentence that says what to change.
    """
    # A copy made outside inference mode: Captum toggles requires_grad on what it is given.
    with torch.inference_mode(False):
        x = x.detach().clone().to(model.fc.weight)
    if x.ndim != 4 or x.shape[0] != 1:
        raise ValueError(f"attribute() explains one image of shape (1, C, H, W), not {tuple(x.shape)}.")
    model.check_input(x)
    chosen = _options(method, (x.shape[2], x.shape[3]), options)
    for name, index in (("target", target), ("against", against)):
        if index is not None and not 0 <= index < model.config.num_classes:
            raise ValueError(f"{name} must be a class from 0 to {model.config.num_classes - 1}, not {index}.")
    if against == target:
        raise ValueError("target and against are the same class; choose two different ones.")
    if METHODS[method].per_layer:
        layer = default_layer(model) if layer is None else layer
        if layer not in (layers := target_layers(model)):
            raise ValueError(f"there is no layer {layer!r} to explain; choose one of {', '.join(layers)}.")
    elif layer is not None:
        raise ValueError(f"{METHODS[method].title} explains the image itself; leave layer out.")

    total = cost_estimate(model, method, (x.shape[2], x.shape[3]), **options)
    forwards = 0

    def explained(images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N,): the explained logit of each image."""
        nonlocal forwards
        logits = model(images)
        forwards += len(images)
        if progress is not None:
            progress(forwards, total)
        return logits[:, target] if against is None else logits[:, target] - logits[:, against]

    baseline, baseline_note = _baseline(model, x, chosen.get("baseline")) if "baseline" in chosen else (None, "")
    run = _Run(model, explained, x, layer, baseline, chosen, torch.Generator().manual_seed(seed))
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        raw, output_change = _RUNNERS[method](run)
    values = raw.detach().double()
    size = (x.shape[2], x.shape[3])
    if METHODS[method].per_layer:
        enlarged = F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    elif values.shape != size:
        enlarged = values[_block_index(size[0], values.shape[0])][:, _block_index(size[1], values.shape[1])]
    else:
        enlarged = values
    forward_only = METHODS[method].validity == "exact"
    validity = "exact" if forward_only else gradient_validity(model, layer)
    residual = None if output_change is None else values.sum().item() - output_change
    return Attribution(
        map=enlarged.numpy(),
        raw=values.numpy(),
        method=method,
        layer=layer,
        target=target,
        against=against,
        forwards=forwards,
        validity=validity,
        output_change=output_change,
        residual=residual,
        notes=tuple(_notes(values, validity, output_change, residual, baseline_note)),
    )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two maps of one shape, -1 to 1; NaN if either is constant or not finite."""
    if a.shape != b.shape:
        raise ValueError(f"maps to correlate must have one shape, not {a.shape} and {b.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a.ravel(), b.ravel()).statistic)


@dataclass(frozen=True)
class _Run:
    """What a runner needs; ``explained`` maps images (N, C, H, W) to the explained logit (N,)."""

    model: Network
    explained: Callable[[Tensor], Tensor]
    x: Tensor
    layer: str | None
    baseline: Tensor | None
    options: dict[str, Any]
    generator: torch.Generator

    def gradients(self, images: Tensor) -> Tensor:
        """Signed gradients (N, C, H, W) of the explained logit at each image."""
        return Saliency(self.explained).attribute(images.requires_grad_(), abs=False)

    def blocks(self) -> Tensor:
        """Block number of every pixel, (1, 1, H, W), numbered from 0 without gaps."""
        height, width = self.x.shape[2:]
        regions = self.options.get("regions")
        if regions is not None:
            numbers = np.unique(regions, return_inverse=True)[1].reshape(height, width)
            return torch.from_numpy(numbers)[None, None]
        grid = self.options["grid"]
        return (_block_index(height, grid)[:, None] * grid + _block_index(width, grid)[None, :])[None, None]

    def per_block(self, values: Tensor) -> Tensor:
        """One value a block, (grid, grid), of a map (1, C, H, W) that is constant on blocks; own regions: (H, W)."""
        if self.options.get("regions") is not None:
            return values[0, 0]
        # Captum gives every pixel and colour of a block the block's value: take it once, do not sum it.
        rows, cols = (_first_of_blocks(side, self.options["grid"]) for side in values.shape[2:])
        return values[0, 0][rows][:, cols]


def _run_grad_cam(run: _Run) -> tuple[Tensor, None]:
    module = run.model.stem if run.layer == "stem" else run.model.units.get_submodule(str(run.layer))
    cam = LayerGradCam(run.explained, module).attribute(run.x.requires_grad_(), relu_attributions=False)
    return cam[0, 0], None  # (1, 1, h, w) -> (h, w)


def _run_saliency(run: _Run) -> tuple[Tensor, None]:
    return run.gradients(run.x)[0].sum(0), None


def _run_input_x_gradient(run: _Run) -> tuple[Tensor, None]:
    return InputXGradient(run.explained).attribute(run.x.requires_grad_())[0].sum(0), None


def _run_smooth_grad(run: _Run) -> tuple[Tensor, None]:
    # Not Captum's NoiseTunnel, which draws from the global generator that other threads draw from too.
    samples, total = run.options["samples"], torch.zeros_like(run.x[0])
    spread = run.options["noise"] * (run.x.max() - run.x.min())
    for start in range(0, samples, run.options["batch"]):
        count = min(run.options["batch"], samples - start)
        noise = torch.randn((count, *run.x.shape[1:]), generator=run.generator).to(run.x)
        total += run.gradients(run.x + spread * noise).sum(0)
    return (total / samples).sum(0), None


def _run_integrated_gradients(run: _Run) -> tuple[Tensor, float]:
    attributions = IntegratedGradients(run.explained).attribute(
        run.x, run.baseline, n_steps=run.options["steps"], internal_batch_size=run.options["batch"]
    )
    return attributions[0].sum(0), _output_change(run)


def _run_occlusion(run: _Run) -> tuple[Tensor, None]:
    window, stride, channels = run.options["window"], run.options["stride"], run.x.shape[1]
    attributions = Occlusion(run.explained).attribute(
        run.x,
        sliding_window_shapes=(channels, window, window),
        strides=(channels, stride, stride),
        baselines=run.baseline,
        perturbations_per_eval=run.options["batch"],
    )
    return attributions[0, 0], None  # the window hides all colours at once, so every colour holds the same value


def _run_feature_ablation(run: _Run) -> tuple[Tensor, None]:
    attributions = FeatureAblation(run.explained).attribute(
        run.x, run.baseline, feature_mask=run.blocks(), perturbations_per_eval=run.options["batch"]
    )
    return run.per_block(attributions), None


def _run_shapley(run: _Run) -> tuple[Tensor, float]:
    sampling = ShapleyValueSampling(run.explained)
    sampling.permutation_generator = lambda features, samples: (
        torch.randperm(features, generator=run.generator).tolist() for _ in range(samples)
    )
    samples, batch = run.options["samples"], run.options["batch"]
    attributions = sampling.attribute(
        run.x, run.baseline, feature_mask=run.blocks(), n_samples=samples, perturbations_per_eval=batch
    )
    return run.per_block(attributions), _output_change(run)


_RUNNERS: dict[str, Callable[[_Run], tuple[Tensor, float | None]]] = {
    "grad_cam": _run_grad_cam,
    "saliency": _run_saliency,
    "input_x_gradient": _run_input_x_gradient,
    "smooth_grad": _run_smooth_grad,
    "integrated_gradients": _run_integrated_gradients,
    "occlusion": _run_occlusion,
    "feature_ablation": _run_feature_ablation,
    "shapley_value_sampling": _run_shapley,
}


def _output_change(run: _Run) -> float:
    """f(x) - f(b) of the explained logit f."""
    assert run.baseline is not None
    # One image at a time, as Captum evaluates the baseline: on a constant image many activations sit exactly at their
    # thresholds, and rounding, which depends on the batch size, decides the sign.
    with torch.no_grad():
        return (run.explained(run.x) - run.explained(run.baseline)).item()


def _options(method: str, size: tuple[int, int], options: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options with defaults filled in and checked."""
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; choose one of {', '.join(_RUNNERS)}.")
    known = METHODS[method]
    if known.validity == "invalid":
        raise ValueError(f"{known.title} means nothing on these networks. {known.why}")
    for name in options:
        if name not in known.options:
            accepted = ", ".join(known.options) or "none"
            raise ValueError(f"{known.title} has no option {name!r}; its options are: {accepted}.")
    chosen = {**known.options, **options}
    if method == "occlusion":
        # A seventh of the side, moved by half of itself: 169 windows on a square image of any size.
        chosen["window"] = chosen["window"] or max(1, min(size) // 7)
        chosen["stride"] = chosen["stride"] or max(1, chosen["window"] // 2)
        if not chosen["stride"] <= chosen["window"] <= min(size):
            raise ValueError(
                f"the window ({chosen['window']} px) must fit the image ({size[0]}x{size[1]}) and the stride "
                f"({chosen['stride']} px) must not exceed the window, or pixels would be left out."
            )
    for name in ("batch", "samples", "steps", "window", "stride"):
        if name in chosen and not (isinstance(chosen[name], int) and chosen[name] >= 1):
            raise ValueError(f"{name} must be a whole number of at least 1, not {chosen[name]!r}.")
    if chosen.get("regions") is not None:
        if np.shape(chosen["regions"]) != size:
            raise ValueError(f"regions must have the image's shape {size}, not {np.shape(chosen['regions'])}.")
    elif "grid" in chosen and not (isinstance(chosen["grid"], int) and 1 <= chosen["grid"] <= min(size)):
        raise ValueError(f"grid must be from 1 to {min(size)} blocks a side, not {chosen['grid']!r}.")
    return chosen


def _baseline(model: Network, x: Tensor, baseline: Any) -> tuple[Tensor, str]:
    """The image that stands for "nothing there", shape of ``x``, and a sentence that names it."""
    preprocess = model.card.get("preprocess")
    if baseline is None:
        baseline = "black" if preprocess and x.shape[1] == 1 else "mean"
    if baseline == "black":
        if not preprocess:
            raise ValueError("the network's card does not say what black is; use baseline='mean' or a number.")
        mean, std = (torch.tensor(preprocess[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
        return (-mean / std).to(x).expand_as(x).clone(), "Removed pixels were set to black."
    if baseline == "mean":
        return torch.zeros_like(x), "Removed pixels were set to the training images' mean value."
    if isinstance(baseline, str):
        raise ValueError(f"baseline must be 'black', 'mean', a number or a tensor, not {baseline!r}.")
    given = torch.as_tensor(baseline).to(x)
    try:
        return given.expand_as(x).clone(), "Removed pixels were set to the given baseline."
    except RuntimeError as error:
        raise ValueError(f"a baseline must broadcast to {tuple(x.shape)}, not {tuple(given.shape)}.") from error


def _block_index(side: int, blocks: int) -> Tensor:
    """Number of the block each of ``side`` pixels lies in, (side,); sizes differ by at most one pixel."""
    return torch.arange(side) * blocks // side


def _first_of_blocks(side: int, blocks: int) -> Tensor:
    """First pixel of each block, (blocks,)."""
    return -(torch.arange(blocks) * -side // blocks)


def _notes(
    values: Tensor, validity: str, output_change: float | None, residual: float | None, baseline: str
) -> Iterator[str]:
    broken = int((~torch.isfinite(values)).sum())
    if broken:
        yield (
            f"{broken} of {values.numel()} values are not finite, so the map means nothing: the network's output or "
            "gradient overflowed. Check the checkpoint and the input."
        )
    elif not values.any():
        yield (
            "The map is zero everywhere: nothing this method looks at changes the explained logit. With surrogate "
            "gradients this happens when every activation lies outside their range; try occlusion."
        )
    if validity == "surrogate":
        yield "Surrogate gradients were used: compare the map with occlusion, which needs none."
    if baseline:
        yield baseline
    if output_change is not None and residual is not None:
        yield (
            f"Removing everything changes the logit by {output_change:.3f}; the map sums to "
            f"{output_change + residual:.3f}, so {residual:+.3f} is unaccounted for."
        )
