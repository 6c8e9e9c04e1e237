"""Which weights of a training are its result: the best epoch, the best by smoothed accuracy, or an average.

On a small validation set the best of many epochs is partly luck: 64 clips at 90 % vary by 7 points. ``smoothed`` lets
neighbouring epochs vote, ``averaged`` does not use the validation clips at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from skd_edge.recipe.training import WeightRule

_MEMORY = 0.6  # share of the smoothed accuracy that the next epoch keeps: the last two or three epochs decide
_AVERAGED_SHARE = 0.25  # share of the epochs, the last ones, whose weights are averaged
Weights = dict[str, Tensor]


class SelectionProgress(TypedDict):
    """What a checkpoint stores of a `WeightSelection` besides its weights and their accuracy; see its attributes."""

    score: float
    smoothed: float | None
    count: int


@dataclass(frozen=True)
class WeightSelection:
    """The weights that would be the result if the training ended now.

    Attributes:
        weights: The state dict.
        accuracy: Validation accuracy of these weights, 0..1; -1 before the first validation, and for an average.
        score: What these weights were selected by: their accuracy, or the smoothed one.
        smoothed: Moving mean of the validation accuracy over the epochs so far; None before the first validation.
        count: Number of epochs in the average.
    """

    weights: Weights
    accuracy: float = -1.0
    score: float = -1.0
    smoothed: float | None = None
    count: int = 0

    def add_epoch(self, rule: WeightRule, weights: Weights, accuracy: float | None, rest: float) -> WeightSelection:
        """The selection after one more epoch.

        Args:
            rule: ``training.select`` of the recipe.
            weights: The state dict at the end of the epoch; it is copied where it is used.
            accuracy: Its validation accuracy, 0..1; None where the epoch was not validated.
            rest: Share of the training that is left after this epoch, 0..1.
        """
        if rule == "averaged":
            return self._extend_average(weights) if rest < _AVERAGED_SHARE else self
        if accuracy is None:
            return self
        before = accuracy if self.smoothed is None else self.smoothed
        smoothed = _MEMORY * before + (1 - _MEMORY) * accuracy
        score = accuracy if rule == "best" else smoothed
        if score < self.score:
            return WeightSelection(self.weights, self.accuracy, self.score, smoothed)
        return WeightSelection({k: v.clone() for k, v in weights.items()}, accuracy, score, smoothed)

    def _extend_average(self, weights: Weights) -> WeightSelection:
        share = 1 / (self.count + 1)
        mean = {
            name: torch.lerp(self.weights[name].to(new.device), new, share)
            if new.is_floating_point() and self.count
            else new.clone()
            for name, new in weights.items()
        }
        return WeightSelection(mean, count=self.count + 1)

    @property
    def progress(self) -> SelectionProgress:
        """What a checkpoint stores besides the weights and their accuracy."""
        return {"score": self.score, "smoothed": self.smoothed, "count": self.count}
