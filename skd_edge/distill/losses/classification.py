"""Losses on labels: soft cross-entropy, and early-learning regularisation for weak labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skd_edge.distill.losses.precision import promote_to_float32


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of ``logits (B, C)`` against probability vectors ``targets (B, C)``, mean over the batch."""
    return -(targets.detach() * F.log_softmax(promote_to_float32(logits), 1)).sum(1).mean()


def early_learning_loss(logits: Tensor, ema_predictions: Tensor) -> Tensor:
    """Early-learning regularisation (ELR, 2007.00151): pulls predictions towards the network's own earlier ones.

    A network fits correct labels first and memorises wrong ones later; its earlier predictions are therefore better
    than wrong labels.

    Args:
        logits: ``(B, C)``.
        ema_predictions: ``(B, C)`` running mean of earlier predictions for the same clips. Rows sum to at most 1. No
            gradient flows into it.

    Returns:
        ``mean log(1 - <softmax(logits), ema_predictions>)``, at most 0; lower means more similar.
    """
    agreement = (torch.softmax(promote_to_float32(logits), 1) * ema_predictions.detach()).sum(1)
    return torch.log1p(-agreement.clamp(max=1 - 1e-4)).mean()
