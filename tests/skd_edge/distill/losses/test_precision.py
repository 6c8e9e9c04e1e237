"""Precision of losses: inputs are promoted to float32 at least, and autocast does not lower it again."""

from __future__ import annotations

import pytest
import torch

from skd_edge.distill.losses.precision import disable_autocast, promote_to_float32


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_inputs_are_promoted_to_float32_at_least(given, expected):
    x = torch.tensor([1.5, -2.0], dtype=given)
    promoted = promote_to_float32(x)
    assert promoted.dtype == expected
    assert torch.equal(promoted, x.to(expected))


def test_matrix_products_keep_their_precision_within_autocast():
    x = torch.full((2, 2), 300.0)
    with torch.autocast("cpu", dtype=torch.float16):
        lowered = x @ x
        with disable_autocast(x):
            exact = x @ x
        lowered_again = x @ x
    assert lowered.dtype == lowered_again.dtype == torch.float16
    assert lowered.isinf().all()  # 2 * 300**2 is above the largest float16
    assert exact.dtype == torch.float32
    assert (exact == 180_000).all()
