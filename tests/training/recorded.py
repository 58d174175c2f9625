"""``bcdnet train`` that also writes down what it saw: ``python recorded.py FOLDER ARGUMENT...``, also under torchrun.

Every process leaves ``FOLDER/RANK.safetensors`` with, for each iteration, the indices of its images, whether they are
mirrored, a checksum of their pixels, its loss, and all gradients as one vector when the weights are about to change.
"""

import os
import sys
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bcdnet import cli
from bcdnet.training import loop

seen: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
loader, loss, step = loop.training_loader, loop.distillation_loss, torch.optim.AdamW.step


def recording_loader(*arguments: Any) -> Any:
    for batch in loader(*arguments):
        seen["indices"].append(batch.indices)
        seen["mirrored"].append(batch.mirrored)
        seen["pixels"].append(torch.tensor([zlib.crc32(image.numpy().tobytes()) for image in batch.images]))
        yield batch


def recording_loss(*arguments: Any) -> torch.Tensor:
    value = loss(*arguments)
    seen["loss"].append(value.detach().clone())
    return value


def recording_step(self: Any, *arguments: Any, **options: Any) -> Any:
    gradients = [parameter.grad.flatten() for group in self.param_groups for parameter in group["params"]]
    seen["gradients"].append(torch.cat(gradients).clone())
    return step(self, *arguments, **options)


loop.training_loader = recording_loader
loop.distillation_loss = recording_loss
torch.optim.AdamW.step = recording_step  # type: ignore[method-assign, assignment]
try:
    cli.main(["train", *sys.argv[2:]])
finally:
    path = Path(sys.argv[1]) / f"{os.environ.get('RANK', '0')}.safetensors"
    safetensors.torch.save_file({name: torch.stack(values) for name, values in seen.items()}, path)
