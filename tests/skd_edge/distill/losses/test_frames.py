"""Features with different numbers of frames: segments of the longer one are averaged."""

from __future__ import annotations

import torch

from skd_edge.distill.losses.frames import align_frames


def test_segments_of_the_longer_side():
    long, short = torch.arange(24.0).reshape(1, 8, 3), torch.randn(1, 4, 5)
    a, b = align_frames(long, short)
    assert torch.equal(a, long.reshape(1, 4, 2, 3).mean(2))
    assert b is short
    assert torch.equal(align_frames(short, long)[1], a)


def test_equal_lengths_are_left_alone():
    a, b = torch.randn(2, 4, 3), torch.randn(2, 4, 5)
    assert align_frames(a, b) == (a, b)
