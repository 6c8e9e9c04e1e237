"""Frame-by-frame inference with a causal network: one frame and a state in, the frame's logits and the next state out.

A clip's logits are the mean of its frames' logits, because the head is linear and follows the mean over time. The mean
over the last T frames is therefore the quantity that the network was trained to predict. Frames before those T still
influence it through the state.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from skd_edge.models.temporal import TemporalConv, TemporalShift
from skd_edge.models.tsm import TSM


class StreamingNetwork(nn.Module):
    """One step of a causal network of the built-in families ``resnet`` and ``mobile``.

    Args:
        network: the causal network; it is copied, and the copy is in evaluation mode.

    Attributes:
        state_shapes: shapes of the temporal operators' states, in the order in which the operators run.
        state_size: number of values in the state of one stream: all these states, flattened.

    Raises:
        ValueError: The network is not causal.
    """

    def __init__(self, network: TSM) -> None:
        super().__init__()
        if not network.causal:
            raise ValueError("only a causal network can run frame by frame; set causal: true in the recipe")
        self.network = copy.deepcopy(network).eval()
        self._state_buffer = _StateBuffer()
        self._wrap_temporal_operators()
        self.state_shapes = self._find_state_shapes()
        self.state_size = sum(map(math.prod, self.state_shapes))

    def forward(self, frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process one frame of each of B streams.

        Args:
            frame: normalised frames, ``(B, 3, H, W)``.
            state: ``(B, state_size)``; zeros for the first frame.

        Returns:
            Logits ``(B, classes)`` of this frame, and the next state.
        """
        parts = state.split([math.prod(shape) for shape in self.state_shapes], dim=1) if self.state_shapes else ()
        self._state_buffer.begin([p.reshape(-1, *shape) for p, shape in zip(parts, self.state_shapes, strict=True)])
        x = self.network.stem(frame)
        for stage in self.network.substages:
            x = stage(x)
        logits: Tensor = self.network.head(x.mean((2, 3)))
        next_states = [s.flatten(1) for s in self._state_buffer.outgoing]
        return logits, torch.cat(next_states, dim=1) if next_states else state

    def _wrap_temporal_operators(self) -> None:
        for name, module in list(self.network.named_modules()):
            if isinstance(module, TemporalShift | TemporalConv):
                parent, _, own = name.rpartition(".")
                setattr(self.network.get_submodule(parent), own, _StatefulOperator(module, self._state_buffer))

    @torch.no_grad()
    def _find_state_shapes(self) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        hooks = [
            m.register_forward_pre_hook(lambda m, x: shapes.append(m.operator.state_shape(x[0])))
            for m in self.network.modules()
            if isinstance(m, _StatefulOperator)
        ]
        self._state_buffer.begin(None)
        x = self.network.stem(torch.zeros(1, 3, self.network.size, self.network.size))
        for stage in self.network.substages:
            x = stage(x)
        for hook in hooks:
            hook.remove()
        return shapes


class _StateBuffer:
    """The operators' states during one forward pass, in the order in which the operators run.

    The operators are deep inside the network, whose blocks take one tensor only. So states are passed to them here.
    """

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, incoming: list[Tensor] | None) -> None:
        """Start a forward pass from these states; None: only the shapes are wanted."""
        self.incoming: list[Tensor] | None = incoming
        self.outgoing: list[Tensor] = []


class _StatefulOperator(nn.Module):
    """A temporal operator that reads its state from the buffer and appends its next state to it."""

    def __init__(self, operator: TemporalShift | TemporalConv, state_buffer: _StateBuffer) -> None:
        super().__init__()
        self.operator, self._state_buffer = operator, state_buffer

    def forward(self, x: Tensor) -> Tensor:
        if self._state_buffer.incoming is None:  # during _find_state_shapes
            return self.operator.step(x, x.new_zeros((len(x), *self.operator.state_shape(x))))[0]
        out, next_state = self.operator.step(x, self._state_buffer.incoming[len(self._state_buffer.outgoing)])
        self._state_buffer.outgoing.append(next_state)
        return out
