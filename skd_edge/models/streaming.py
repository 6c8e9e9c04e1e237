"""A causal network frame by frame: one frame and a state in, this frame's logits and the next state out.

A clip's logits are the mean of its frames' logits (the head is linear and stands behind the mean over time), so the
mean over the last T frames is what the network was trained to say; frames before those only reach further back.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from skd_edge.models.temporal import Shift, TemporalConv
from skd_edge.models.tsm import TSM


class Streaming(nn.Module):
    """One step of a causal network of the own family.

    Attributes:
        shapes: of the state of each temporal operator, in the order in which they run.
        state_size: numbers in the state of one stream: all of them, flattened.

    Raises:
        ValueError: The network is not causal.
    """

    def __init__(self, network: TSM) -> None:
        super().__init__()
        if not network.causal:
            raise ValueError("only a causal network can go frame by frame; set causal in the recipe")
        self.network = copy.deepcopy(network).eval()
        self._box = _Box()
        self._carry()
        self.shapes = self._measure()
        self.state_size = sum(map(math.prod, self.shapes))

    def forward(self, frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Go on by one frame.

        Args:
            frame: ``(B, 3, H, W)`` of B streams, normalised.
            state: ``(B, state_size)``; zeros begin.

        Returns:
            Logits ``(B, classes)`` of this frame, and the next state.
        """
        parts = state.split([math.prod(shape) for shape in self.shapes], dim=1) if self.shapes else ()
        self._box.states = [p.reshape(-1, *shape) for p, shape in zip(parts, self.shapes, strict=True)]
        self._box.given = []
        x = self.network.stem(frame)
        for stage in self.network.substages:
            x = stage(x)
        logits: Tensor = self.network.head(x.mean((2, 3)))
        after = [s.flatten(1) for s in self._box.given]
        return logits, torch.cat(after, dim=1) if after else state

    def _carry(self) -> None:
        for name, module in list(self.network.named_modules()):
            if isinstance(module, Shift | TemporalConv):
                parent, _, own = name.rpartition(".")
                setattr(self.network.get_submodule(parent), own, _Carried(module, self._box))

    @torch.no_grad()
    def _measure(self) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        hooks = [
            m.register_forward_pre_hook(lambda m, x: shapes.append(m.operator.state_shape(x[0])))
            for m in self.network.modules()
            if isinstance(m, _Carried)
        ]
        self._box.states = None
        x = self.network.stem(torch.zeros(1, 3, self.network.size, self.network.size))
        for stage in self.network.substages:
            x = stage(x)
        for hook in hooks:
            hook.remove()
        return shapes


class _Box:
    """The states on their way through one forward pass, in the order of the operators."""

    states: list[Tensor] | None = None
    given: list[Tensor]


class _Carried(nn.Module):
    """A temporal operator that takes its state out of the box and puts the next one in."""

    def __init__(self, operator: Shift | TemporalConv, box: _Box) -> None:
        super().__init__()
        self.operator, self._box = operator, box

    def forward(self, x: Tensor) -> Tensor:
        if self._box.states is None:  # while shapes are measured
            return self.operator.step(x, x.new_zeros((len(x), *self.operator.state_shape(x))))[0]
        out, after = self.operator.step(x, self._box.states[len(self._box.given)])
        self._box.given.append(after)
        return out
