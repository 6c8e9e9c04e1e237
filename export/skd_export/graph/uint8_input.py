"""Files that take uint8 frames ``(B, T, H, W, 3)``, as a camera gives them, and contain the preprocessing.

A device then needs no preprocessing code. The nodes in front of the network do what `skd_bench.video.clip.normalise`
does, in the same order and in float32, so the logits are the same up to rounding. Frames of another size are also
resized to the network's input, by two matrix products. These give the same result on every runtime; ``Resize`` with
antialiasing differs between runtimes, and TensorRT does not support it. Frames far larger than the network's input are
cheaper to scale while they are decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.video.clip import normalise
from skd_bench.video.resize import compute_overlap, compute_scaled_size
from skd_bench.video.types import Preprocessing
from skd_export.graph.onnx_export import load_onnx

INPUT = "frames"
Size = tuple[int, int]
Floats = npt.NDArray[np.float32]


def add_preprocessing(
    clip_file: Path | str, path: Path | str, preprocess: Preprocessing, size: Size | None = None
) -> None:
    """Write a copy of a file that takes uint8 frames instead of normalised clips.

    Args:
        clip_file: An ONNX file with the input ``clip``, float32 ``(B, 3, T, H, W)``, at any precision inside.
        path: Where the copy goes; its input is ``frames``, uint8 ``(B, T, H, W, 3)``; written atomically.
        preprocess: How the clips were normalised and resized.
        size: ``(height, width)`` of the frames in pixels; None: the network's input size.

    Raises:
        UserError: The file is not an ONNX file, or does not take float clips of ``preprocess``'s size.
    """
    model = load_onnx(clip_file)
    [clip] = model.graph.input
    shape = [d.dim_param or d.dim_value for d in clip.type.tensor_type.shape.dim]
    fits = len(shape) == 5 and shape[3:] == [preprocess.height, preprocess.width]
    if clip.type.tensor_type.elem_type != TensorProto.FLOAT or not fits:
        raise UserError(
            f"{clip_file} takes an input of shape {shape}, not float clips of {preprocess.height}x{preprocess.width} "
            "pixels; give the file and the preprocessing of the same network"
        )
    batch, frames = shape[0], shape[2]
    height, width = size or (preprocess.height, preprocess.width)
    prefix = _GraphPrefix(model.graph)
    scale, shift = compute_scale_and_shift(preprocess)
    # The cast comes first: TensorRT supports uint8 at a network's input only.
    x = prefix.add_node("Cast", INPUT, to=TensorProto.FLOAT)
    x = prefix.add_node("Transpose", x, perm=[0, 4, 1, 2, 3])
    scaled = prefix.add_node("Mul", x, prefix.add_constant(scale))
    if (height, width) == (preprocess.height, preprocess.width):
        prefix.add_node("Sub", scaled, prefix.add_constant(shift), out=clip.name)
    else:
        rows, columns = build_resize_matrices((height, width), preprocess)
        x = prefix.add_node("Sub", scaled, prefix.add_constant(shift))
        x = prefix.add_node("MatMul", x, prefix.add_constant(columns))
        prefix.add_node("MatMul", prefix.add_constant(rows), x, out=clip.name)
    model.graph.input.remove(clip)
    model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, frames, height, width, 3]))
    model.graph.value_info.append(clip)
    prefix.prepend_nodes()
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, model.SerializeToString(deterministic=True))


def preprocess_frames(frames: npt.NDArray[np.uint8], preprocess: Preprocessing) -> npt.NDArray[np.float32]:
    """Do in NumPy what the nodes of `add_preprocessing` do: the reference for their parity.

    Args:
        frames: ``(B, T, H, W, 3)`` of any size.
        preprocess: The network's.

    Returns:
        The clip ``(B, 3, T, height, width)`` that the network itself takes.
    """
    size = frames.shape[2], frames.shape[3]
    clip = normalise(frames, preprocess)
    if size == (preprocess.height, preprocess.width):
        return clip
    rows, columns = build_resize_matrices(size, preprocess)
    return np.ascontiguousarray(rows @ (clip @ columns))


def compute_scale_and_shift(preprocess: Preprocessing) -> tuple[Floats, Floats]:
    """Scale and shift, float32 ``(3, 1, 1, 1)``, so that ``pixel * scale - shift`` rounds as `normalise` does."""
    scale = 1 / (255 * np.asarray(preprocess.std, np.float64))
    shift = np.asarray(preprocess.mean, np.float64) / preprocess.std
    return scale.astype(np.float32).reshape(3, 1, 1, 1), shift.astype(np.float32).reshape(3, 1, 1, 1)


def build_resize_matrices(size: Size, preprocess: Preprocessing) -> tuple[Floats, Floats]:
    """Build the matrices ``(h, H)`` and ``(W, w)`` that crop, scale and pad a frame as the decoder does.

    When scaling down, a pixel is the mean of the area that it covers, as in the decoder's scaler; scaling up is
    bilinear. Padding is 0 after normalisation, which is the mean colour.

    Args:
        size: ``(H, W)`` of the frames in pixels.
        preprocess: Gives the target size ``(h, w)`` and how to fit it.
    """
    (height, width), (target_height, target_width) = size, (preprocess.height, preprocess.width)
    rows, columns = compute_scaled_size(Fraction(width, height), target_height, target_width, preprocess.fit)
    return _build_axis_weights(height, rows, target_height), np.ascontiguousarray(
        _build_axis_weights(width, columns, target_width).T
    )


def _build_axis_weights(source: int, scaled: int, target: int) -> Floats:
    """Weights ``(target, source)`` of one axis: scaled, then cropped or padded at both ends; rows sum to 1 or 0."""
    step = source / scaled
    middles, pixels = (np.arange(scaled)[:, None] + 0.5) * step, np.arange(source) + 0.5
    if step > 1:  # scaling down: how much of each source pixel the scaled pixel covers
        ends = np.minimum(middles + step / 2, pixels + 0.5), np.maximum(middles - step / 2, pixels - 0.5)
        weights = np.clip(ends[0] - ends[1], 0, None)
    else:
        weights = np.clip(1 - np.abs(np.clip(middles, 0.5, source - 0.5) - pixels), 0, None)
    into, out_of = compute_overlap(target, scaled)
    placed = np.zeros((target, source), np.float32)
    placed[into] = (weights / weights.sum(1, keepdims=True))[out_of]
    return placed


class _GraphPrefix:
    """Collects nodes and constants that are put in front of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self.nodes = graph, list[onnx.NodeProto]()
        self.constant_count = 0

    def add_node(self, op: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = f"frames_{len(self.nodes)}_{op.lower()}"
        self.nodes.append(helper.make_node(op, inputs, [out or name], name=name, **attributes))
        return out or name

    def add_constant(self, array: Floats) -> str:
        self.constant_count += 1
        self.graph.initializer.append(numpy_helper.from_array(array, f"frames_constant_{self.constant_count}"))
        return f"frames_constant_{self.constant_count}"

    def prepend_nodes(self) -> None:
        """Put the collected nodes before the graph's own."""
        existing_nodes = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend((*self.nodes, *existing_nodes))


@dataclass(frozen=True)
class Uint8Input:
    """An input of uint8 frames ``(B, T, H, W, 3)`` instead of float clips.

    Attributes:
        preprocess: How the network's clips are normalised and resized.
        size: Height and width of the frames in pixels; None: the network's input size.
    """

    preprocess: Preprocessing
    size: tuple[int, int] | None = None
