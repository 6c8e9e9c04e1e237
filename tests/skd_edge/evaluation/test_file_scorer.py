"""A precision is kept where it is shown to be faster, and rejected with the ratio where it is not."""

from __future__ import annotations

import numpy as np

from skd_bench.benchmark.latency import LatencyResult
from skd_edge.evaluation.file_scorer import _why_not_faster
from skd_edge.schedule.candidates import Deployment

FP32, INT8 = Deployment("fp32", "ort", "fp32"), Deployment("int8", "ort", "int8")
PROCESSES = np.array([1.0, 1.3, 1.1, 1.02, 1.2])  # fresh processes differ more than queries do


def latency(ms: np.ndarray) -> LatencyResult:
    samples = [list(m * np.linspace(0.99, 1.01, 40)) for m in ms]
    return LatencyResult("x", samples, None, None, None, 40 * len(samples), 1.0, 1.0, True, None)


def said(int8: np.ndarray, fp32: np.ndarray = PROCESSES) -> str | None:
    return _why_not_faster(INT8, {FP32: latency(fp32), INT8: latency(int8)})


def test_faster_in_every_process_is_faster_however_much_processes_differ():
    assert said(0.9 * PROCESSES) is None


def test_what_is_slower_or_may_be_is_rejected_with_the_ratio():
    reason = said(1.1 * PROCESSES)
    assert reason is not None
    assert "INT8 is rejected: 1.10 times FP32's milliseconds [1.10, 1.10]" in reason
    reason = said(PROCESSES * [0.9, 1.05, 0.97, 1.02, 1.04])
    assert reason is not None
    assert "not shown to be faster" in reason


def test_fp32_and_a_single_process_say_nothing():
    assert _why_not_faster(FP32, {FP32: latency(PROCESSES)}) is None
    assert said(np.array([1.2]), np.array([1.0])) is None
