"""Graft: the learner's first substages stand in for the teacher's, and the teacher's own later substages judge them.

Nearest published: stage-by-stage distillation (SSKD, 1812.01819) and stagewise KD (1911.06786).
"""

from __future__ import annotations

from torch import Tensor, nn

from skd_edge.models.tsm import TSM


class GraftedTeacher(nn.Module):
    """Learner's substages 1..k, an adapter, the frozen teacher's k+1..K and its head.

    The adapters (one a substage, 1x1 convolution and norm) live in training only and are dropped at export.

    Args:
        learner_widths: channels of the learner's substages.
        teacher: a network of the own family, in evaluation mode, frozen.
    """

    def __init__(self, learner_widths: tuple[int, ...], teacher: TSM) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b))
            for a, b in zip(learner_widths, teacher.widths, strict=True)
        )
        self._teacher = (teacher,)  # in a tuple: neither its weights nor its mode are ours

    def forward(self, feature_maps: Tensor, substage: int) -> Tensor:
        """Logits ``(B, classes)`` of the teacher behind what the learner's substage ``substage`` (1 the first) handed on.

        Args:
            feature_maps: ``(B*T, C, H, W)``; H and W as the teacher's there, which holds for one clip size.
            substage: number of that substage.
        """
        logits = self._teacher[0].resume_after_substage(self.adapters[substage - 1](feature_maps), substage).logits
        assert logits is not None
        return logits
