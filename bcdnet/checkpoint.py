"""Checkpoints: one safetensors file with the weights, the :class:`Config` and the card that describes them.

Loading needs no name of a variant and never runs code. Layout: the tensors are the network's ``state_dict`` in
float32 (counters in int64); the metadata holds ``format`` "bcdnet-checkpoint", ``version`` "1", ``config`` and
``card``, the last two as JSON.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from bcdnet.files import write_atomically
from bcdnet.model import InputError, Network
from bcdnet.variants import Config, ConfigError

FORMAT = "bcdnet-checkpoint"
VERSION = "1"
#: What a file of another kind is, by its format, and what reads it.
KINDS = {
    FORMAT: "a checkpoint of a trained network, which `bcdnet pack` turns into a packed one",
    "bcdnet-packed": "a packed network, which only the packed engine runs",
}
MAX_BYTES = 2**31


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence that says why."""


def save(model: Network, path: str | Path, card: Mapping[str, Any]) -> None:
    """Write a checkpoint that is either whole or not there at all.

    Args:
        model: the network; real values are stored in float32 whatever their dtype.
        path: file to write; an existing one is replaced.
        card: what describes the weights: classes, preprocessing, recipe, measured accuracy; plain JSON types.

    Raises:
        CheckpointError: a value is not finite, the card is not JSON, or the file cannot be written.
    """
    path = Path(path)
    tensors = {key: _stored(tensor) for key, tensor in model.state_dict().items()}
    write_file(path, tensors, FORMAT, VERSION, model.config, card)


def write_file(
    path: Path, tensors: Mapping[str, Tensor], file_format: str, version: str, config: Config, card: Mapping[str, Any]
) -> None:
    """Write tensors with their description atomically; CheckpointError if one is not finite, or not JSON."""
    try:
        card_json = json.dumps(card, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the card of {path.name} cannot be written as JSON ({error}).") from error
    check_finite(tensors, path.name)
    metadata = {"format": file_format, "version": version, "config": config.to_json(), "card": card_json}
    try:
        write_atomically(path, to_safetensors(dict(tensors), metadata))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({error.strerror}).") from error


def load(path: str | Path, max_bytes: int = MAX_BYTES) -> Network:
    """Read a checkpoint into a network in eval mode, with its ``config`` and ``card`` from the file.

    Raises:
        CheckpointError: the file is missing, larger than ``max_bytes``, damaged, not one of ours, or its tensors are
            not exactly those of the network it describes: names, shapes, types, finite values.
    """
    name = Path(path).name
    with open_file(path, max_bytes) as file:
        config, card = describe(file, name, FORMAT, VERSION, "a checkpoint")
        network = skeleton(config, len(file.keys()), name)
        expected = network.state_dict()
        require_same_keys(expected, file.keys(), name)
        check_layout(file, expected, name)
        # Copies, because the file's own memory is mapped: whoever overwrites the file would change the network.
        tensors = {key: file.get_tensor(key).clone() for key in expected}
    check_finite(tensors, name)
    network.load_state_dict(tensors, strict=True, assign=True)
    network.card = card
    return network.eval()


def inspect(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """What a checkpoint says about itself, without building the network or reading its weights.

    Returns:
        ``{"config": Config, "card": dict, "tensors": {name: {"dtype": "F32", "shape": [...]}}}``.

    Raises:
        CheckpointError: the file is missing, larger than ``max_bytes``, damaged or not one of ours.
    """
    with open_file(path, max_bytes) as file:
        config, card = describe(file, Path(path).name, FORMAT, VERSION, "a checkpoint")
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        tensors = {key: {"dtype": s.get_dtype(), "shape": list(s.get_shape())} for key, s in slices.items()}
    return {"config": config, "card": card, "tensors": tensors}


def transfer(source: nn.Module, target: nn.Module, heads: bool = True) -> None:
    """Copy all weights from one network to another, strictly.

    Between the training steps (32/1 to 1/1) every key must match. From BCDNet-A to BCDNet-B the ``embedding`` keys of
    the target may be missing; they keep their values, which at the start change nothing.

    Args:
        source, target: networks.
        heads: False leaves the target's heads as they are, for another set of classes.

    Raises:
        CheckpointError: any other key is missing or left over, or a shape differs; ``target`` is then unchanged.
    """
    weights, expected = source.state_dict(), target.state_dict()
    if not heads:
        weights, expected = (
            {key: tensor for key, tensor in state.items() if not key.startswith(("fc.", "fc_dist."))}
            for state in (weights, expected)
        )
    new = {key for key in expected if key not in weights and ".embedding." in key}
    required = {key: tensor for key, tensor in expected.items() if key not in new}
    require_same_keys(required, weights, "the source network")
    check_shapes(weights, required, "the source network")
    target.load_state_dict(weights, strict=heads and not new)


def require_same_keys(expected: Iterable[str], found: Iterable[str], name: str) -> None:
    """Raise CheckpointError naming what is missing and what is left over, unless both hold the same keys."""
    expected, found = set(expected), set(found)
    parts = []
    if missing := sorted(expected - found):
        parts.append(f"lacks {listing(missing)}")
    if unexpected := sorted(found - expected):
        parts.append(f"holds {listing(unexpected)}, which the network does not have")
    if parts:
        raise CheckpointError(f"{name} {' and '.join(parts)}.")


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    """Raise CheckpointError unless every tensor has the shape of its namesake in ``expected``."""
    for key, like in expected.items():
        if tensors[key].shape != like.shape:
            raise CheckpointError(
                f"{name} holds {key} in the shape {tuple(tensors[key].shape)}; the network needs {tuple(like.shape)}."
            )


def check_finite(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raise CheckpointError naming the tensors that hold NaN or infinity, if there are any."""
    if bad := [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"{name} holds values that are not finite in {listing(bad)}.")


def check_file(path: str | Path, max_bytes: int) -> Path:
    """The path of a file that exists and is not larger than ``max_bytes``; CheckpointError otherwise."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; name a checkpoint file in it.")
        if not path.is_file():
            raise CheckpointError(f"{path} is not an ordinary file.")
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"there is no file {path}.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}).") from error
    if size > max_bytes:
        raise CheckpointError(f"{path.name} has {size:,} bytes, more than the {max_bytes:,} that are allowed.")
    return path


def listing(keys: list[str], most: int = 3) -> str:
    """The first few keys as words, and how many more there are."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    # A foreign file may hold anything as a key; line breaks and control codes are shown escaped.
    return ", ".join(_shortened(key if key and key.isprintable() else repr(key)) for key in keys[:most]) + more


def _shortened(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]} (and so on)."


@contextlib.contextmanager
def open_file(path: str | Path, max_bytes: int) -> Iterator[safe_open]:
    """A safetensors file for reading; CheckpointError if it is none, or is larger than ``max_bytes``."""
    path = check_file(path, max_bytes)
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start.startswith((b"PK\x03\x04", b"\x80\x02")):
            raise CheckpointError(
                f"{path.name} is a pickle, which could run code; `bcdnet import` reads the published ones safely."
            )
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is not a safetensors file, or it is cut off or damaged.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from error


def describe(
    file: safe_open, name: str, expected_format: str, expected_version: str, what: str
) -> tuple[Config, dict[str, Any]]:
    """The configuration and the card in a file's metadata; CheckpointError if it is not ``what`` is expected."""
    metadata = file.metadata() or {}
    if metadata.get("format") != expected_format:
        other = KINDS.get(metadata.get("format", ""))
        raise CheckpointError(f"{name} is {other or f'a safetensors file, but not {what} of this project'}.")
    version = metadata.get("version", "")
    if version != expected_version:
        newer = version.isdecimal() and len(version) < 10 and int(version) > int(expected_version)
        advice = "a newer one: update this program" if newer else "an unknown one"
        raise CheckpointError(f"{name} has the layout version {version[:20]!r}, {advice}.")
    try:
        card = json.loads(metadata.get("card", ""))
        config = Config.from_json(metadata.get("config", ""))
    except ConfigError as error:
        raise CheckpointError(f"{name} describes no network: {_shortened(str(error))}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} has a damaged card ({error}).") from error
    if not isinstance(card, dict):
        raise CheckpointError(f"{name} has a card that is not a JSON object.")
    return config, card


def skeleton(config: Config, n_tensors: int, name: str) -> Network:
    """The network without memory for its weights; CheckpointError if it would be larger than ``n_tensors`` allow."""
    # A damaged configuration could ask for billions of units; each one that is real brings tensors of its own.
    in_stages = sum(config.blocks[stage - 1] - 1 for stage in set(config.mlp_stages))
    replaced = max(1, config.mlp_groups, in_stages) * config.mlps_per_conv
    if sum(config.blocks) + config.mlp_groups > n_tensors or replaced > n_tensors:
        raise CheckpointError(f"{name} describes more layers than it holds tensors.")
    try:
        with torch.device("meta"):
            return Network(config)
    except (InputError, ConfigError) as error:
        raise CheckpointError(f"{name} describes no network: {error}") from error
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{name} describes no network that can be built.") from error


def check_layout(file: safe_open, expected: Mapping[str, Tensor], name: str) -> None:
    """Raise CheckpointError unless every tensor in the file has the type and shape of its namesake in ``expected``."""
    types = {torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8", torch.float16: "F16"}
    for key, tensor in expected.items():
        found = file.get_slice(key)
        have, need = (found.get_dtype(), tuple(found.get_shape())), (types[tensor.dtype], tuple(tensor.shape))
        if have != need:
            raise CheckpointError(f"{name} holds {key} as {have[0]} {have[1]}; the network needs {need[0]} {need[1]}.")


def _stored(tensor: Tensor) -> Tensor:
    stored = tensor.detach().cpu().contiguous()
    return stored.float() if stored.is_floating_point() else stored
