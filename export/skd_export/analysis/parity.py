"""Parity: how far a file's logits are from the trained network's, and whether that is within bounds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from skd_bench.errors import UserError

Floats = npt.NDArray[np.float32]
_MAX_FLIPS = 20


@dataclass(frozen=True)
class ParityBounds:
    """How far a file may be from the trained network.

    Attributes:
        fp32_relative: FP32: largest difference divided by the largest logit. In addition, all top classes must agree.
        fp16_agreement: FP16: share of clips with the same top class, in 0..1.
        bf16_agreement: BF16: the same; bfloat16 has three bits of mantissa less than FP16.
        int8_agreement: INT8 and FP8: share of clips with the same top class, in 0..1. This bound or the next one is
            enough.
        int8_drop: INT8 and FP8: loss of accuracy, in percentage points.
    """

    fp32_relative: float = 1e-4
    fp16_agreement: float = 0.995
    bf16_agreement: float = 0.99
    int8_agreement: float = 0.98
    int8_drop: float = 1.0


class Flip(TypedDict):
    """A clip whose top class changed.

    Attributes:
        clip: Index of the clip.
        reference: Top class of the reference.
        candidate: Top class of the candidate.
        margin: The reference's logit of its own class minus that of the candidate's class.
        label: The true class; None if it is unknown.
    """

    clip: int
    reference: int
    candidate: int
    margin: float
    label: int | None


class ParitySummary(TypedDict):
    """How a candidate's logits differ from the reference's, as it is written to JSON.

    Attributes:
        n: Number of clips.
        max_abs: Largest difference of two logits.
        mean_abs: Mean difference of two logits.
        relative: ``max_abs`` divided by the reference's largest logit.
        cosine: Cosine of the logits, mean over clips; 1 is the same direction.
        spread: How much the reference's logits vary between clips, divided by its largest logit. Near 0 the network
            ignores its input, and parity proves nothing.
        agreement: Share of clips with the same top class, in 0..1.
        accuracy_drop: Loss of accuracy in percentage points, negative if the candidate is better; None without labels.
    """

    n: int
    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    spread: float
    agreement: float
    accuracy_drop: float | None


class ParityMetrics(ParitySummary):
    """A `ParitySummary` with the clips whose top class changed.

    Attributes:
        flips: At most 20 of them, the largest margin first.
    """

    flips: list[Flip]


def compute_torch_logits(network: nn.Module, batches: Iterable[Floats]) -> Floats:
    """Logits ``(N, C)`` of a network for batches of normalised clips ``(b, 3, T, H, W)``, on the network's device.

    Raises:
        UserError: The network is in train mode, or there are no clips.
    """
    if any(module.training for module in network.modules()):
        raise UserError("the network is in train mode: call network.eval() before computing its logits")
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        rows = [network(torch.from_numpy(batch).to(device)).float().cpu().numpy() for batch in batches]
    if not rows:
        raise UserError("there are no clips to compute logits for; pass at least one batch")
    return np.concatenate(rows)


def compute_parity(
    reference_logits: npt.ArrayLike, candidate_logits: npt.ArrayLike, labels: npt.ArrayLike | None = None
) -> ParityMetrics:
    """Compare a candidate's logits with the reference's, clip by clip.

    Args:
        reference_logits: ``(N, C)``, N >= 1: the trained network.
        candidate_logits: ``(N, C)``: the exported file, on the same clips in the same order.
        labels: N class indices, or None if the true classes are unknown.

    Raises:
        UserError: Shapes differ, there are no clips, or a logit is NaN or infinite (the message names the clip).
    """
    reference = _check_logits(reference_logits, "the network")
    candidate = _check_logits(candidate_logits, "the exported file")
    if reference.shape != candidate.shape:
        raise UserError(f"logits of shapes {reference.shape} and {candidate.shape} cannot be compared clip by clip")
    truth = None if labels is None else np.asarray(labels, dtype=np.int64)
    if truth is not None and truth.shape != (len(reference),):
        raise UserError(f"{len(reference)} clips need {len(reference)} labels, not an array of shape {truth.shape}")
    difference = np.abs(candidate - reference)
    scale = float(np.abs(reference).max()) or 1.0
    reference_classes, candidate_classes = reference.argmax(axis=1), candidate.argmax(axis=1)
    drop = (
        None
        if truth is None
        else 100.0 * float(np.mean(reference_classes == truth) - np.mean(candidate_classes == truth))
    )
    return {
        "n": len(reference),
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "relative": float(difference.max()) / scale,
        "cosine": _mean_cosine(reference, candidate),
        "spread": float(np.ptp(reference, axis=0).max()) / scale,
        "agreement": float(np.mean(reference_classes == candidate_classes)),
        "flips": _list_flips(reference, reference_classes, candidate_classes, truth),
        "accuracy_drop": drop,
    }


def summarize_parity(parity: ParityMetrics) -> ParitySummary:
    """The metrics without the single clips: what a bundle stores."""
    return cast(ParitySummary, {key: value for key, value in parity.items() if key != "flips"})


def find_violated_bound(parity: ParitySummary, precision: str, bounds: ParityBounds | None = None) -> str | None:
    """Check a file against the bounds of its precision.

    Args:
        parity: A result of `compute_parity`.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``int8-trt`` or ``fp8``.
        bounds: None: the defaults.

    Returns:
        The reason why the file is outside its bounds, or None if it is within them.

    Raises:
        ValueError: The precision is unknown.
    """
    bounds = bounds or ParityBounds()
    agreement, drop, n = parity["agreement"], parity["accuracy_drop"], parity["n"]
    if precision == "fp32":
        if agreement < 1.0:
            changed = round((1 - agreement) * n)
            return f"the FP32 file changes the top class of {changed} of {n} clips; no change is allowed"
        if parity["relative"] > bounds.fp32_relative:
            difference = f"{parity['relative']:.1e} of the largest logit, above {bounds.fp32_relative:.0e}"
            return f"the FP32 file's logits differ by {difference}"
        return None
    if precision in ("fp16", "bf16"):
        bound = bounds.fp16_agreement if precision == "fp16" else bounds.bf16_agreement
        if agreement >= bound:
            return None
        least = f"{100 * bound:.1f} %"
        share = f"{100 * agreement:.1f} % of {n} clips"
        return f"the {precision.upper()} file agrees with the network on {share}, below {least}"
    if precision not in ("int8", "int8-trt", "fp8"):
        raise ValueError(f"unknown precision {precision!r}; choose from fp32, fp16, bf16, int8, int8-trt, fp8")
    # 1e-9: the drop is a difference of two rounded means, and a drop equal to the bound is allowed.
    if agreement >= bounds.int8_agreement or (drop is not None and drop <= bounds.int8_drop + 1e-9):
        return None
    lost = "an unknown number of" if drop is None else f"{drop:.1f}"
    return (
        f"the {precision.upper()} file agrees with the network on {100 * agreement:.1f} % of {n} clips, below "
        f"{100 * bounds.int8_agreement:.1f} %, and loses {lost} points, above {bounds.int8_drop:.1f}"
    )


def _check_logits(values: npt.ArrayLike, producer: str) -> npt.NDArray[np.float64]:
    logits = np.asarray(values, dtype=np.float64)
    if logits.ndim != 2 or not logits.size:
        raise UserError(
            f"{producer} gave logits of shape {logits.shape}; (clips, classes) with at least one clip is needed"
        )
    if len(bad := np.flatnonzero(~np.isfinite(logits).all(axis=1))):
        raise UserError(f"{producer} gave NaN or infinite logits for clip {bad[0]} (and {len(bad) - 1} others)")
    return logits


def _mean_cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Mean cosine of the rows: 1 for two rows of zeros, 0 for a row of zeros and another row."""
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product = lengths[0] * lengths[1]
    cosines = np.divide((a * b).sum(axis=1), product, out=np.zeros(len(a)), where=product > 0)
    cosines[(lengths[0] == 0) & (lengths[1] == 0)] = 1.0
    return float(np.clip(cosines, -1.0, 1.0).mean())


def _list_flips(
    reference: npt.NDArray[np.float64],
    reference_classes: npt.NDArray[np.int64],
    candidate_classes: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64] | None,
) -> list[Flip]:
    clips = np.flatnonzero(reference_classes != candidate_classes)
    margins = reference[clips, reference_classes[clips]] - reference[clips, candidate_classes[clips]]
    surest = np.argsort(-margins, kind="stable")[:_MAX_FLIPS]
    return [
        {
            "clip": int(clips[i]),
            "reference": int(reference_classes[clips[i]]),
            "candidate": int(candidate_classes[clips[i]]),
            "margin": float(margins[i]),
            "label": None if labels is None else int(labels[clips[i]]),
        }
        for i in surest
    ]
