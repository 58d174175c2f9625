"""The Lightning module of one training step."""

import math
import shutil

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from bcdnet.model import Network
from bcdnet.training.distillation import distillation_loss
from bcdnet.training.recipe import Step


class TrainingModule(lightning.LightningModule):
    """A network with the loss, optimizer and schedule of one step of a recipe."""

    def __init__(self, network: Network, step: Step, label_smoothing: float, compile_step: bool) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step, self.label_smoothing = step, label_smoothing
        # Fusing element-wise passes saves about a quarter of a step; inductor needs a C++ compiler for it.
        can_compile = compile_step and any(shutil.which(name) for name in ("g++", "c++", "clang++"))
        self.train_logits = torch.compile(network.head_logits) if can_compile else network.head_logits

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        """Loss of one batch of images, labels and teacher logits."""
        images, labels, teacher = batch
        logits, distilled = self.train_logits(images.to(memory_format=torch.channels_last))
        loss = distillation_loss(logits, distilled, labels, teacher, self.label_smoothing)
        with torch.no_grad():
            accuracy = (logits.argmax(1) == labels).float().mean() * 100
        metrics = {"train_loss": loss, "train_top1": accuracy}
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> None:
        """Accuracy in percent with both heads merged."""
        images, labels, _teacher = batch
        accuracy = (self.network(images.to(memory_format=torch.channels_last)).argmax(1) == labels).float().mean() * 100
        self.log("test_top1", accuracy, on_epoch=True, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on all parameters; linear warm-up, then half a cosine down to 0, by iteration."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.step.lr, weight_decay=self.step.weight_decay, fused=True
        )
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.step.warmup * total)

        def factor(iteration: int) -> float:
            if iteration < warmup:
                return (iteration + 1) / warmup
            return (1 + math.cos(math.pi * (iteration - warmup) / max(1, total - warmup))) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
