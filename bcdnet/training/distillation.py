"""What the two heads learn: ``fc`` the labels, ``fc_dist`` the teacher."""

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(
    logits: Tensor, distilled: Tensor | None, labels: Tensor, teacher: Tensor | None, label_smoothing: float
) -> Tensor:
    """Mean of label-smoothed cross-entropy on ``fc`` and soft cross-entropy on ``fc_dist`` at temperature 1.

    Args:
        logits, distilled: (N, K) from the two heads; with one head the same logits learn both.
        labels: int64 (N,).
        teacher: (N, K) logits; None for no teacher, then every head learns the labels.
        label_smoothing: share of the label spread over all classes.
    """
    second = logits if distilled is None else distilled
    hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if teacher is None:
        soft = F.cross_entropy(second, labels, label_smoothing=label_smoothing)
    else:
        soft = F.cross_entropy(second, teacher.softmax(1))
    return (hard + soft) / 2
