"""Grafting: the learner's first substages replace the teacher's, and the teacher's later substages classify the result.

The loss on the resulting logits trains the learner's first substages.

Nearest published: stage-by-stage distillation (SSKD, 1812.01819) and stagewise KD (1911.06786).
"""

from __future__ import annotations

from torch import Tensor, nn

from skd_edge.models.tsm import TSM


class GraftedTeacher(nn.Module):
    """Adapters from the learner's substages 1..k to the frozen teacher's substages k+1..K and its head.

    There is one adapter for each substage, a 1x1 convolution and a batch norm. They exist during training only and are
    not exported.

    Args:
        learner_widths: Channels of the learner's substages.
        teacher: A `TSM` network, frozen and in evaluation mode.
    """

    def __init__(self, learner_widths: tuple[int, ...], teacher: TSM) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b))
            for a, b in zip(learner_widths, teacher.widths, strict=True)
        )
        self._teacher = (teacher,)  # in a tuple, so that it is not a submodule: not trained, not stored, mode unchanged

    def forward(self, feature_maps: Tensor, substage: int) -> Tensor:
        """Logits ``(B, classes)`` of the teacher's later substages on the output of a substage of the learner.

        Args:
            feature_maps: Output of the learner's substage, ``(B*T, C, H, W)``. H and W must be those of the teacher's
                substage, which is the case where both networks get clips of one size.
            substage: Number of that substage, from 1.
        """
        logits = self._teacher[0].resume_after_substage(self.adapters[substage - 1](feature_maps), substage).logits
        assert logits is not None
        return logits
