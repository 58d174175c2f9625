"""What the two heads learn: ``fc`` the labels, ``fc_dist`` the teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def distillation_loss(
    logits: Tensor, distilled: Tensor | None, labels: Tensor, teacher: Tensor, label_smoothing: float
) -> Tensor:
    """Mean of label-smoothed cross-entropy on ``fc`` and soft cross-entropy on ``fc_dist`` at temperature 1.

    Args:
        logits, distilled: (N, K) from the two heads; with one head the same logits learn both.
        labels: int64 (N,).
        teacher: (N, K) logits, or (N, 0) for no teacher; then every head learns the labels.
    """
    second = logits if distilled is None else distilled
    hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if teacher.shape[1] == 0:
        soft = F.cross_entropy(second, labels, label_smoothing=label_smoothing)
    else:
        soft = F.cross_entropy(second, teacher.softmax(1))
    return (hard + soft) / 2


@torch.inference_mode()
def teacher_logits(teacher: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Logits (2, N, K) of every image as it is and mirrored, so that the teacher runs once, not once an epoch."""
    teacher.eval()
    both = [
        torch.cat([teacher(batch.to(memory_format=torch.channels_last)) for batch in views.split(batch_size)])
        for views in (images, images.flip(-1))
    ]
    return torch.stack(both).clone()
