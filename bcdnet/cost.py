"""Parameters, bits, BOPs, FLOPs and OPs of a network, per layer and in total.

One multiply-accumulate is one operation; ``OPs = BOPs / 64 + FLOPs``. The paper prints FLOPs in two conventions:

* ``conv_fc`` (in brackets in its Table 1): multiply-accumulates of real convolutions and linear layers only;
* ``full``: that, plus one per element of each RSign input, each binary-convolution output (the weight scale; one per
  branch in a binary MLP), each batch-norm output and each PReLU output.

Residual additions, RPReLU's shifts, branch sums and pooling are not counted. Of two heads one is counted.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bcdnet.layers import BinaryConv2d, RPReLU, RSign
from bcdnet.model import Network
from bcdnet.variants import Config


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one image.

    Attributes:
        name: dotted path of the module in the network.
        kind: class name of the module.
        output: shape (C, H, W) or (C,) of the output.
        params: number of parameters; ``binary_params`` of them take one bit.
        bits: memory of the parameters.
        bops: binary multiply-accumulates.
        macs: real multiply-accumulates of convolutions and linear layers (convention ``conv_fc``).
        elementwise: operations the convention ``full`` adds.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    params: int
    binary_params: int
    bops: int
    macs: int
    elementwise: int

    @property
    def bits(self) -> int:
        """Bits the parameters take: 1 for each binary one, 32 for each real one."""
        return self.binary_params + 32 * (self.params - self.binary_params)

    @property
    def flops(self) -> dict[str, int]:
        """Real operations in both conventions."""
        return {"full": self.macs + self.elementwise, "conv_fc": self.macs}


@dataclass(frozen=True)
class NetworkCost:
    """Cost of a network for one image; totals are sums over ``layers``, save that the second head costs nothing."""

    layers: tuple[LayerCost, ...]

    def _total(self, field: str) -> int:
        return sum(getattr(layer, field) for layer in self.layers)

    @property
    def params(self) -> int:
        """All parameters, both heads included."""
        return self._total("params")

    @property
    def binary_params(self) -> int:
        """Parameters that take one bit."""
        return self._total("binary_params")

    @property
    def bits(self) -> int:
        """Bits of all parameters."""
        return self._total("bits")

    @property
    def bops(self) -> int:
        """Binary multiply-accumulates."""
        return self._total("bops")

    @property
    def flops(self) -> dict[str, int]:
        """Real operations, conventions "full" and "conv_fc"."""
        return {"full": self._total("macs") + self._total("elementwise"), "conv_fc": self._total("macs")}

    @property
    def ops(self) -> dict[str, float]:
        """``BOPs / 64 + FLOPs`` in both conventions."""
        return {convention: self.bops / 64 + flops for convention, flops in self.flops.items()}


@functools.lru_cache(maxsize=256)
def network_cost(config: Config, image_size: tuple[int, int] | None = None) -> NetworkCost:
    """Count every layer of the network a configuration describes, without allocating its weights.

    Args:
        config: the network.
        image_size: (height, width) in pixels; the configuration's own if None.

    Raises:
        InputError: the strides do not allow this image size.
    """
    height, width = config.image_size if image_size is None else image_size
    with torch.device("meta"):
        network = Network(config).eval()
        image = torch.empty(1, config.in_channels, height, width)
    layers: list[LayerCost] = []

    def record(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, _, output: layers.append(_layer_cost(config, name, module, output))

    for name, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(record(name))
    with torch.no_grad():
        network(image)
    return NetworkCost(tuple(layers))


def _layer_cost(config: Config, name: str, module: nn.Module, y: Tensor) -> LayerCost:
    params = sum(p.numel() for p in module.parameters())
    outputs = y[0].numel()
    binary_params = bops = macs = elementwise = 0
    if isinstance(module, BinaryConv2d):
        products = module.weight[0].numel() * outputs
        if config.binary_weights:
            binary_params, elementwise = params, outputs
        if config.precision == "1/1":
            bops = products
        else:
            macs = products
    elif isinstance(module, nn.Conv2d | nn.Linear):
        macs = module.weight[0].numel() * outputs
    elif isinstance(module, RSign):
        elementwise = outputs if config.binary_activations else 0
    elif isinstance(module, nn.BatchNorm2d | RPReLU):
        elementwise = outputs
    if name == "fc_dist":  # at inference both heads are merged into one
        macs = 0
    return LayerCost(name, type(module).__name__, tuple(y.shape[1:]), params, binary_params, bops, macs, elementwise)
