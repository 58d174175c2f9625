"""Tiny packed networks of every kind, and whether an answer of theirs is right."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import bcdnet
from bcdnet.engine import Engine, build_plan
from bcdnet.kernels import reference
from bcdnet.model import Network

SMALL: dict[str, Any] = {
    "image_size": 12,
    "num_classes": 5,
    "width": 1 / 8,
    "stem_stride": 1,
    "channels": (64, 128, 256),
    "strides": (1, 2, 2),
    "blocks": (1, 1, 2),
    "mlps_per_conv": 2,
}
RESNET: dict[str, Any] = {"image_size": 32, "num_classes": 5, "width": 1 / 8, "blocks": (1, 1, 1, 2)}
NETWORKS: dict[str, dict[str, Any]] = {
    "bcdnet_a": {**SMALL, "mlp_groups": 1},
    "bcdnet_b": {**SMALL, "mlp_groups": 1, "branches": "LPSS", "long_range": 2, "width": 1 / 4},
    "reactnet_a": {**SMALL, "width": 3 / 32, "in_channels": 2},
    "reactnet_b": SMALL,
    "reactnet_c": {**SMALL, "stem_stride": 3},
    "bcdnet_a_18": RESNET,
    "bcdnet_b_18": {**RESNET, "channels": (64, 72, 128, 128), "strides": (1, 2, 2, 1), "in_channels": 1},
}


def network(name: str) -> Network:
    """A network of ``NETWORKS`` with random values wherever there is one."""
    torch.manual_seed(len(name))
    model = bcdnet.create_model(name, **NETWORKS[name]).eval()
    with torch.no_grad():
        for key, tensor in (*model.named_parameters(), *model.named_buffers()):
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.5)
    return model


def is_sentence(message: str) -> bool:
    """Whether an error speaks to people: a line that ends with a full stop."""
    return message.endswith(".") and message.isprintable() and len(message) < 1500


def differs(engine: Engine, x: Tensor, logits: Tensor) -> str:
    """How ``logits`` are no right answer of ``engine`` to the finite float32 images ``x``; empty if they are one.

    The sums of stem and head may be off by 1e-5 of the sum of their terms' absolute values. In between every bit is
    specified: the reference goes on from the engine's own stem. Where a value passes ``bound`` only the shape counts,
    because single precision may then overflow in one order of addition and not in another, or, with embeddings, the
    channel sums are no longer exact.
    """
    config, parameters = engine.config, engine.parameters()
    shape = (len(x), config.num_classes)
    if tuple(logits.shape) != shape or logits.dtype != torch.float32:
        return f"{logits.dtype} {tuple(logits.shape)} instead of float32 {shape}"
    plan = build_plan(reference.Plan(), config, parameters)
    bound = 1e5 if config.embedding_ratio else 1e30
    p = {key: value.double() for key, value in parameters.items() if key.startswith(("stem.", "head."))}
    for number, row in enumerate(logits):
        image = x.detach()[number : number + 1]
        values = engine.trace(image)[0].output
        assert values is not None
        values = values[None]
        layout = {"stride": config.stem_stride, "padding": p["stem.weight"].shape[-1] // 2}
        scale, bias = p["stem.scale"][:, None, None], p["stem.bias"][:, None, None]
        right = F.conv2d(image.double(), p["stem.weight"], **layout) * scale + bias
        terms = F.conv2d(image.double().abs(), p["stem.weight"].abs(), **layout) * scale.abs() + bias.abs()
        if config.stem_pool:
            right, terms = (F.max_pool2d(t, 3, 2, 1) for t in (right, terms))
        if bool(((values.double() - right).abs() > 1e-5 * terms).logical_and(terms < bound).any()):
            return "the stem is off"
        within = bool((terms < bound).all())
        for index in range(len(plan.units)):
            values = plan.step(index, values).output
            within &= bool((values.abs() < bound).all())
        features = values[0].double().mean((-2, -1))
        right, terms = p["head.weight"] @ features + p["head.bias"], p["head.weight"].abs() @ features.abs()
        terms += p["head.bias"].abs()
        if within and not bool(((row.double() - right).abs() <= 1e-5 * terms).logical_or(terms > bound).all()):
            return f"{row.tolist()} instead of {right.tolist()}"
    return ""
