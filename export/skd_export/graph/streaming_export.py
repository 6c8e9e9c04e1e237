"""Exports a streaming network to ONNX: it takes ``frame`` and ``state`` and returns ``logits`` and ``next_state``."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_export.graph.graph_template import OPSET, silence_exporter
from skd_export.graph.onnx_export import CLASSES_KEY, strip_metadata
from skd_export.graph.uint8_input import Uint8Input, build_resize_matrices, compute_scale_and_shift


def export_stream(
    step: nn.Module,
    path: Path | str,
    *,
    size: tuple[int, int],
    state_size: int,
    classes: list[str],
    uint8_input: Uint8Input | None = None,
) -> None:
    """Write one step of a streaming network as an ONNX file. The batch (the number of streams) is dynamic.

    Args:
        step: In eval mode, ``forward(frame (B, 3, H, W), state (B, S)) -> (logits (B, C), next state (B, S))``.
        path: Where the file goes; written atomically.
        size: ``(H, W)``.
        state_size: S, how many numbers one stream's state has. A stream starts with zeros.
        classes: Class names in the order of the logits.
        uint8_input: The file takes uint8 frames ``(B, H, W, 3)`` of this contract; None: normalised float32 frames.

    Raises:
        UserError: The network is in train mode or cannot be traced.
    """
    if step.training:
        raise UserError("the network is in train mode: call network.eval() before exporting")
    frame = torch.zeros(2, 3, *size)
    if uint8_input is not None:
        step = _StepWithPreprocessing(step, uint8_input)
        frame = torch.zeros(2, *(uint8_input.size or size), 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    with torch.no_grad(), silence_exporter():
        try:
            program = torch.onnx.export(
                copy.deepcopy(step).to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
                (frame, torch.zeros(2, max(state_size, 1))),
                dynamo=True,
                external_data=False,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=["frame", "state"],
                output_names=["logits", "next_state"],
                dynamic_shapes=({0: batch}, {0: batch}),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(f"the streaming network cannot be exported: {str(error).splitlines()[0]}") from error
    assert program is not None
    from onnxscript import optimizer  # imported late: it takes a second

    model = optimizer.optimize(program.model_proto)
    strip_metadata(model)
    onnx.helper.set_model_props(model, {CLASSES_KEY: json.dumps(classes, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, model.SerializeToString(deterministic=True))


class _StepWithPreprocessing(nn.Module):
    """A step that normalises, and if necessary resizes, its frame first; see `uint8_input.add_preprocessing`."""

    def __init__(self, step: nn.Module, uint8_input: Uint8Input) -> None:
        super().__init__()
        preprocess, size = uint8_input.preprocess, uint8_input.size
        self.step = step
        self.scale: Tensor
        self.shift: Tensor
        self.rows: Tensor
        self.columns: Tensor
        scale, shift = (torch.from_numpy(a.reshape(3, 1, 1)) for a in compute_scale_and_shift(preprocess))
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.matrices = (
            None if size in (None, (preprocess.height, preprocess.width)) else build_resize_matrices(size, preprocess)
        )
        if self.matrices is not None:
            self.register_buffer("rows", torch.from_numpy(self.matrices[0]))
            self.register_buffer("columns", torch.from_numpy(self.matrices[1]))

    def forward(self, frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = frame.float().permute(0, 3, 1, 2) * self.scale - self.shift
        if self.matrices is not None:
            x = self.rows @ (x @ self.columns)
        logits, after = self.step(x, state)
        return logits, after
