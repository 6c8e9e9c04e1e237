"""Learning from labels: soft cross-entropy, and early-learning regularisation where the labels are weak."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skd_edge.distill.losses.precision import promote_to_float32


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of ``logits (B, C)`` against probability vectors ``targets (B, C)``, mean over the batch."""
    return -(targets.detach() * F.log_softmax(promote_to_float32(logits), 1)).sum(1).mean()


def early_learning_loss(logits: Tensor, ema_predictions: Tensor) -> Tensor:
    """Early-learning regularisation (ELR, 2007.00151): pull towards what the network said before it memorised.

    Args:
        logits: ``(B, C)``.
        ema_predictions: ``(B, C)`` running mean of earlier predictions for the same clips, rows sum to at most 1; no gradient.

    Returns:
        ``mean log(1 - <p, memory>)``, at most 0; the lower, the closer.
    """
    agreement = (torch.softmax(promote_to_float32(logits), 1) * ema_predictions.detach()).sum(1)
    return torch.log1p(-agreement.clamp(max=1 - 1e-4)).mean()
