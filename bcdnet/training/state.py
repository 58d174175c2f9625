"""The state of an unfinished step on disk: tensors only, written whole or not at all."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bcdnet.files import write_atomically


class StateError(ValueError):
    """A saved state that cannot be read or belongs to another network; the message is one sentence."""


class NotSaved(RuntimeError):
    """The state could not be written; the message says what to do, the last one is still there."""


def write_or_stop(path: Path, content: bytes) -> None:
    """Write a file of a run atomically. Raises NotSaved when the disk does not take it."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise NotSaved(
            f"{path} cannot be written ({error.strerror}); what was saved before is kept, so make room and go on with "
            f"--resume {path.parent}."
        ) from error


@dataclass
class State:
    """Everything that decides how a step goes on: nothing else is random or remembered.

    Attributes:
        network: whose weights and running statistics are saved.
        optimizer: whose moments are.
        average: of the weights (EMA), or None.
        signs: of the binary weights at the last row of the log, by name, bool.
        sums: float64 (3): loss, hits and images since the last row.
        scaler: of the gradients where they have half precision, else None.
        iteration: batches done.
        seconds: of training since the last row.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None
    signs: dict[str, Tensor]
    sums: Tensor
    scaler: torch.amp.GradScaler | None = None
    iteration: int = 0
    seconds: float = 0.0
    _names: dict[int, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._names = {id(parameter): name for name, parameter in self.network.named_parameters()}

    def save(self, path: Path) -> None:
        """Write it. Raises NotSaved when the disk does not take it."""
        tensors = {f"network.{key}": tensor for key, tensor in self.network.state_dict().items()}
        for parameter, moments in self.optimizer.state.items():
            name = self._names[id(parameter)]
            tensors |= {f"optimizer.{key}.{name}": tensor for key, tensor in moments.items()}
        if self.average is not None:
            tensors |= {f"average.{key}": tensor for key, tensor in self.average.state_dict().items()}
        tensors |= {f"signs.{key}": tensor for key, tensor in self.signs.items()}
        tensors["sums"] = self.sums
        # Clones, because safetensors takes neither shared nor transposed memory.
        apart = {"memory_format": torch.contiguous_format}
        plain = {key: tensor.detach().cpu().clone(**apart) for key, tensor in tensors.items()}
        scaler = None if self.scaler is None else self.scaler.state_dict()
        rest = json.dumps({"iteration": self.iteration, "seconds": self.seconds, "scaler": scaler})
        write_or_stop(path, safetensors.torch.save(plain, {"state": rest}))

    def restore(self, path: Path) -> None:
        """Become what was saved. Raises StateError."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                rest = json.loads((file.metadata() or {})["state"])
            self.network.load_state_dict(_part(tensors, "network."))
            if self.average is not None:
                self.average.load_state_dict(_part(tensors, "average."))
            for parameter in (p for group in self.optimizer.param_groups for p in group["params"]):
                name, moments = self._names[id(parameter)], {}
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    saved = tensors.get(f"optimizer.{key}.{name}")
                    if saved is not None:
                        # In the parameter's own order of memory, as the optimizer would have made it.
                        like = parameter if saved.shape == parameter.shape and key != "step" else saved
                        empty = torch.empty_like(like, device=parameter.device, requires_grad=False)
                        moments[key] = empty.copy_(saved)
                if moments:
                    self.optimizer.state[parameter] = moments
            self.signs = {key: tensor.to(self.sums.device) for key, tensor in _part(tensors, "signs.").items()}
            self.sums.copy_(tensors["sums"])
            if self.scaler is not None:
                self.scaler.load_state_dict(rest["scaler"])
            self.iteration, self.seconds = int(rest["iteration"]), float(rest["seconds"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StateError(f"{path} is no state of this run ({reason}); delete it to start the step anew.") from error


def _part(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
