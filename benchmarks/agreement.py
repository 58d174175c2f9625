"""Does a packed engine compute what its network computes? Every bit of every layer and all logits, image by image.

    python -m benchmarks.agreement [CHECKPOINT ...] [--images N] [--full N] [--threads N] [--output FILE]

Without arguments it takes every shipped 1/1 checkpoint and all test images of its data set, and then random images of
two sizes through full-size networks with random weights, statistics, shifts and embeddings.

Two float computations that add in another order differ by rounding, and so may the bit of a value that lies within
rounding of its threshold. One such bit changes what every later layer sees, so that a plain comparison of later layers
says nothing. Therefore the float graph *follows* the engine (:func:`follow`): after each comparison it goes on with the
engine's bits, while its real values, from the stem through every shortcut, remain its own. Every bit of every layer is
then held against the same bits before it, and each that differs must lie within :data:`TOLERANCE` of its threshold.
The logits and classes of the plain float graph, which follows nothing, are compared as well.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import bcdnet
from analysis.deployment import with_stored_matrices
from bcdnet.bench import machine
from bcdnet.checkpoint import inspect
from bcdnet.data import open_dataset
from bcdnet.evaluate import model_preprocess
from bcdnet.files import assets_dir, write_atomically
from bcdnet.layers import ContextEmbedding, RPReLU, RSign

#: How far from its threshold a bit that differs may lie, in standard deviations of its layer's pre-activations.
TOLERANCE = 1e-5
#: Median relative difference of the logits.
LOGITS = 1e-4
#: Share of the images whose class may differ.
CLASSES = 2 / 10_000

#: The full-size networks, and the sizes of their images.
FULL = ("bcdnet_a", "bcdnet_b", "reactnet_a", "bcdnet_a_18")
FULL_SIZES = ((224, 224), (160, 192))


@dataclass
class LayerBits:
    """The bits of one layer's input: how many, how many differ, and the largest distance of one of those from its
    threshold, in standard deviations of the layer's ``x - threshold`` over the images compared at once."""

    bits: int = 0
    differing: int = 0
    farthest: float = 0.0


@dataclass
class Followed:
    """A float graph that went along an engine's bits.

    Attributes:
        layers: what differs, by unit.
        images: for each image whether a bit of it differs, bool (N,).
        logits: of the float graph, (N, classes).
    """

    layers: dict[str, LayerBits] = field(default_factory=dict)
    images: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def traced_bits(engine: bcdnet.Engine, images: Tensor) -> dict[str, Tensor]:
    """The engine's bits by unit, uint8 (N, C, H, W), of images (N, C, H, W)."""
    bits: dict[str, list[Tensor]] = {}
    for image in images:
        for row in engine.trace(image[None]):
            if row.bits is not None:
                bits.setdefault(row.name, []).append(row.bits)
    return {name: torch.stack(rows) for name, rows in bits.items()}


def follow(model: bcdnet.Network, images: Tensor, bits: Mapping[str, Tensor]) -> Followed:
    """Run the float graph, in eval mode and of any precision, along the engine's ``bits`` (:func:`traced_bits`)."""
    found = Followed(images=torch.zeros(len(images), dtype=torch.bool))

    def hook(name: str, sign: RSign) -> Any:
        def compare(_: nn.Module, inputs: tuple[Tensor, ...], signs: Tensor) -> Tensor:
            x, *dynamic = inputs
            shift = sign.bias - dynamic[0] if dynamic else sign.bias
            shifted = x + shift[..., None, None]  # the sum that RSign takes the sign of
            differ = (shifted >= 0) != bits[name].bool()
            layer = found.layers[name] = LayerBits(differ.numel(), int(differ.sum()))
            if layer.differing:
                layer.farthest = float(shifted[differ].abs().max() / shifted.std(correction=0))
                found.images |= differ.flatten(1).any(1)
            return bits[name].to(signs) * 2 - 1

        return sign.register_forward_hook(compare)

    handles = [hook(name, unit.sign) for name, unit in model.residual_units() if unit.sign is not None]
    try:
        with torch.no_grad():
            found.logits = model(images.to(next(model.parameters())))
    finally:
        for handle in handles:
            handle.remove()
    return found


def relative(found: Tensor, expected: Tensor) -> Tensor:
    """``|found - expected| / |expected|`` of every logit."""
    return (found - expected).abs() / expected.abs()


@dataclass(frozen=True)
class Agreement:
    """What one network's engine and float graph have in common.

    The float graph has the embedding matrices of the packed file; ``top1_equal_unrounded`` alone is of the network as
    it was trained.

    Attributes:
        name: of the checkpoint.
        isa: what the engine ran on.
        images: how many.
        top1_equal, top1_equal_unrounded: images whose largest logit is the same.
        median_logits: median relative difference of the logits.
        bits, differing, farthest: over all layers, see :class:`LayerBits`; the float graph follows the engine.
        differing_images: images of which a bit differs.
        median_logits_followed: of the float graph that follows.
        layers: what differs in each.
    """

    name: str
    isa: str
    images: int
    top1_equal: int
    top1_equal_unrounded: int
    median_logits: float
    bits: int
    differing: int
    farthest: float
    differing_images: int
    median_logits_followed: float
    layers: dict[str, LayerBits]

    def complaints(self) -> list[str]:
        """The tolerances that are not kept."""
        # Among the few images of a random network only one of which a bit differs may get another class.
        few = CLASSES * self.images < 1
        allowed = self.differing_images if few else CLASSES * self.images
        moved = self.images - self.top1_equal
        kept = {
            f"top-1 differs on {moved} images": moved <= allowed,
            f"the logits differ by {self.median_logits:.1e}": self.median_logits <= LOGITS,
            f"with the same bits they differ by {self.median_logits_followed:.1e}": self.median_logits_followed
            <= LOGITS,
            f"a bit differs {self.farthest:.1e} from its threshold": self.farthest <= TOLERANCE,
        }
        return [complaint for complaint, ok in kept.items() if not ok]


def compare(model: bcdnet.Network, batches: Iterable[Tensor], name: str = "", threads: int = 1) -> Agreement:
    """Compare a 1/1 network in eval mode with its packed engine on batches of images."""
    engine, exact = bcdnet.pack(model, threads), with_stored_matrices(model)
    layers: dict[str, LayerBits] = {}
    logits: dict[str, list[Tensor]] = {"engine": [], "unrounded": [], "float": [], "followed": []}
    differing_images = 0
    for images in batches:
        followed = follow(exact, images, traced_bits(engine, images))
        with torch.no_grad():
            logits["engine"].append(engine(images))
            logits["unrounded"].append(model(images))
            logits["float"].append(logits["unrounded"][-1] if exact is model else exact(images))
        logits["followed"].append(followed.logits)
        differing_images += int(followed.images.sum())
        for key, new in followed.layers.items():
            layer = layers.setdefault(key, LayerBits())
            layer.bits += new.bits
            layer.differing += new.differing
            layer.farthest = max(layer.farthest, new.farthest)
    ours, unrounded, floats, along = (torch.cat(logits[key]) for key in ("engine", "unrounded", "float", "followed"))
    return Agreement(
        name=name,
        isa=engine.isa,
        images=len(ours),
        top1_equal=int((ours.argmax(1) == floats.argmax(1)).sum()),
        top1_equal_unrounded=int((ours.argmax(1) == unrounded.argmax(1)).sum()),
        median_logits=float(relative(ours, floats).median()),
        bits=sum(layer.bits for layer in layers.values()),
        differing=sum(layer.differing for layer in layers.values()),
        farthest=max(layer.farthest for layer in layers.values()),
        differing_images=differing_images,
        median_logits_followed=float(relative(ours, along).median()),
        layers=layers,
    )


def images_of(model: bcdnet.Network, most: int | None = None, batch: int = 200) -> Iterator[Tensor]:
    """The test images of the network's own data set in batches, prepared as its card says; the first ``most``."""
    batches = open_dataset(model.card["dataset"]).batches(model_preprocess(model), batch)
    left = most
    for images, _ in batches:
        yield images[:left]
        if left is not None:
            left -= len(images)
            if left <= 0:
                return


def shipped() -> list[Path]:
    """The 1/1 checkpoints that ship."""
    paths = sorted((assets_dir() / "checkpoints").glob("*.safetensors"))
    return [path for path in paths if inspect(path)["config"].precision == "1/1"]


def random_network(variant: str, seed: int = 0, **changes: Any) -> bcdnet.Network:
    """A network in eval mode with every parameter and statistic far from where it starts."""
    torch.manual_seed(seed)
    model = bcdnet.create_model(variant, **changes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5).mul_(torch.where(torch.rand_like(module.weight) < 0.2, -1.0, 1.0))
            module.bias.data.normal_(0, 0.3)
        elif isinstance(module, RSign):
            module.bias.data.normal_(0, 0.2)
        elif isinstance(module, RPReLU):
            for shift in (module.shift_in, module.shift_out):
                shift.data.normal_(0, 0.2)
            module.slope.data.uniform_(-0.2, 0.6)
        elif isinstance(module, ContextEmbedding):
            for linear in (module.reduce, module.threshold, module.offset):
                linear.weight.data.normal_(0, linear.in_features**-0.5)
                linear.bias.data.normal_(0, 0.1)
    return model.eval()


def random_images(model: bcdnet.Network, size: tuple[int, int], n: int = 1, seed: int = 1) -> Tensor:
    """Standard normal pixels, (n, C, height, width)."""
    return torch.randn(n, model.config.in_channels, *size, generator=torch.Generator().manual_seed(seed))


def comparisons(options: argparse.Namespace) -> Iterator[Agreement]:
    """One after another, as the command line asks."""
    for path in options.checkpoints or shipped():
        model = bcdnet.load(path)
        batches = tqdm(images_of(model, options.images), path.stem, unit="batch", leave=False)
        yield compare(model, batches, path.stem, options.threads)
    for variant in FULL if options.full else ():
        model = random_network(variant)
        for size in FULL_SIZES:
            name = f"random {variant} at {size[0]}x{size[1]}"
            batches = tqdm(random_images(model, size, options.full).split(2), name, unit="batch", leave=False)
            yield compare(model, batches, name, options.threads)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all agree, 1 if one does not, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(description="Compare packed engines with their float graphs, bit by bit.")
    parser.add_argument("checkpoints", nargs="*", type=Path, metavar="CHECKPOINT", help="default: all shipped 1/1 ones")
    parser.add_argument("--images", type=int, help="only the first so many of the test images")
    parser.add_argument("--full", type=int, default=10, help="images for each full-size random network; 0: none")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/agreement.json")
    options = parser.parse_args(arguments)
    results = []
    try:
        for result in comparisons(options):
            results.append(result)
            print(sentence(result), flush=True)
        document = {"machine": machine(), "networks": [asdict(result) for result in results]}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, json.dumps(document, indent=1).encode())
    except (ValueError, OSError) as error:
        print(f"agreement: {error}", file=sys.stderr)
        return 2
    return 1 if any(result.complaints() for result in results) else 0


def sentence(result: Agreement) -> str:
    """One line for people."""
    complaints = "; ".join(result.complaints())
    return (
        f"{result.name} on {result.isa}: top-1 {result.top1_equal:,} of {result.images:,} "
        f"(unrounded {result.top1_equal_unrounded:,}), logits {result.median_logits:.1e}, following "
        f"{result.median_logits_followed:.1e}, {result.differing:,} of {result.bits:,} bits differ, in "
        f"{result.differing_images:,} images, at most {result.farthest:.1e} from the threshold"
        + (f": NOT KEPT: {complaints}" if complaints else "")
    )


if __name__ == "__main__":
    sys.exit(main())
