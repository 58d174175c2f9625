"""The attribution methods: what each computes, where it comes from, and how far it holds on a binarised network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """A way to attribute a logit to pixels.

    Attributes:
        key, title: name in code and on screen.
        validity: on a network with binary activations: "exact", "surrogate" (needs gradients through signs) or
            "invalid" (never run); :func:`analysis.attribution.method_status` says it for one network.
        why: one sentence of reason.
        formula: in plain text; f is the explained logit, b the baseline image.
        citation: where it comes from.
        per_layer: whether a layer can be chosen.
        options: keyword options of :func:`analysis.attribution.attribute` and their defaults; None is settled
            from the image.
    """

    key: str
    title: str
    validity: str
    why: str
    formula: str
    citation: str
    per_layer: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


_THROUGH_SIGNS = "Its gradients pass through signs, whose slope is the training surrogate, not the truth."
_FORWARD_ONLY = "It only runs the network forward, so no surrogate gradient is involved."
_BATCH = {"batch": 32}
_BASELINE = {"baseline": None, **_BATCH}

_TABLE = (
    Method(
        "grad_cam",
        "Grad-CAM",
        "surrogate",
        "Exact at the last unit, where only pooling and a linear head follow; before it, gradients pass through signs.",
        "map(i, j) = sum_c mean_ij(df/dA_c) A_c(i, j), not rectified: negative values speak against the class",
        "Selvaraju et al., Grad-CAM, ICCV 2017",
        per_layer=True,
    ),
    Method(
        "saliency",
        "Gradient",
        "surrogate",
        _THROUGH_SIGNS,
        "map = sum over colours of df/dx, signed",
        "Simonyan et al., Deep Inside Convolutional Networks, 2013",
    ),
    Method(
        "input_x_gradient",
        "Input × gradient",
        "surrogate",
        _THROUGH_SIGNS,
        "map = sum over colours of x df/dx, with x after normalisation",
        "Shrikumar et al., Not Just a Black Box, 2016",
    ),
    Method(
        "smooth_grad",
        "SmoothGrad",
        "surrogate",
        _THROUGH_SIGNS,
        "map = mean over samples of the gradient at x + noise, noise ~ N(0, (s (max x - min x))^2)",
        "Smilkov et al., SmoothGrad, 2017",
        options={"samples": 25, "noise": 0.15, **_BATCH},
    ),
    Method(
        "integrated_gradients",
        "Integrated gradients",
        "surrogate",
        "It integrates surrogate gradients, so the map need not sum to the change of the logit; the gap is reported.",
        "map = sum over colours of (x - b) times the mean gradient on the line from b to x",
        "Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017",
        options={"steps": 50, **_BASELINE},
    ),
    Method(
        "occlusion",
        "Occlusion",
        "exact",
        _FORWARD_ONLY,
        "map(p) = mean over windows w that cover p of f(x) - f(x with w set to b)",
        "Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014",
        options={"window": None, "stride": None, **_BASELINE},
    ),
    Method(
        "feature_ablation",
        "Block ablation",
        "exact",
        _FORWARD_ONLY,
        "map(p) = f(x) - f(x with the block of p set to b), blocks from a grid or given regions",
        "Captum, FeatureAblation",
        options={"grid": 7, "regions": None, **_BASELINE},
    ),
    Method(
        "shapley_value_sampling",
        "Shapley values of blocks",
        "exact",
        "It only runs the network forward; more samples bring it closer to the true Shapley value.",
        "map(p) = mean over random orders of the change of f when the block of p replaces b; blocks sum to f(x) - f(b)",
        "Castro et al., Polynomial Calculation of the Shapley Value Based on Sampling, 2009",
        options={"grid": 7, "samples": 10, **_BASELINE},
    ),
    Method(
        "guided_backprop",
        "Guided backpropagation",
        "invalid",
        "It changes the gradient of nn.ReLU modules only; without any, it silently equals the plain gradient.",
        "gradient with negative parts cut at every ReLU",
        "Springenberg et al., Striving for Simplicity, 2014",
    ),
    Method(
        "guided_grad_cam",
        "Guided Grad-CAM",
        "invalid",
        "It multiplies Grad-CAM by guided backpropagation, which is a plain gradient on a network without nn.ReLU.",
        "guided backpropagation × upsampled Grad-CAM",
        "Selvaraju et al., Grad-CAM, ICCV 2017",
    ),
    Method(
        "deep_lift",
        "DeepLIFT",
        "invalid",
        "It has rules for known activation modules only; signs and PReLUs pass as linear, so its rescaling is lost.",
        "multipliers (f(x) - f(b)) / (x - b) chained through non-linearities",
        "Shrikumar et al., Learning Important Features, ICML 2017",
    ),
    Method(
        "lrp",
        "Layer-wise relevance propagation",
        "invalid",
        "No relevance rule exists for sign or PReLU modules, so it stops with an error.",
        "relevance handed down in proportion to each input's contribution",
        "Bach et al., On Pixel-Wise Explanations, PLoS ONE 2015",
    ),
)

#: Every method by its key; those that are "invalid" are listed with the reason and never run.
METHODS: dict[str, Method] = {method.key: method for method in _TABLE}
