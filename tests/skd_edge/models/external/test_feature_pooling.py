"""Layouts are found from shapes, and every layout is pooled to the mean over space for each frame."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skd_edge.models.external.feature_pooling import find_layouts, find_time_steps, pool_over_space

B, T = 3, 8


@pytest.mark.parametrize(
    ("shape", "layout", "pooled"),
    [
        ((B, 32, 8, 14, 14), "BCTHW", (B, 8, 32)),
        ((B, 32, 2, 7, 7), "BCTHW", (B, 2, 32)),
        ((B, 32, 4, 1, 1), "BCTHW", (B, 4, 32)),
        ((B, 4, 64, 7, 7), "BTCHW", (B, 4, 64)),
        ((B, 4, 14, 14, 96), "BTHWC", (B, 4, 96)),
        ((B * T, 24, 7, 7), "FCHW", (B, T, 24)),
        ((B * 2, 24, 7, 7), "FCHW", (B, 2, 24)),  # the network has reduced the frames
        ((B, 24, 7, 7), "FCHW", (B, 1, 24)),  # one map for each clip
        ((B * T, 7, 7, 24), "FHWC", (B, T, 24)),
        ((B, T, 50, 32), "BTNC", (B, T, 32)),
        ((B, 4 * 49, 32), "BNC", (B, 4, 32)),
        ((B, 1 + T * 196, 32), "BNC", (B, T, 32)),
        ((B, T, 32), "BNC", (B, T, 32)),
        ((B * T, 197, 32), "FNC", (B, T, 32)),
        ((B * T, 32), "FC", (B, T, 32)),
        ((B, 32), "FC", (B, 1, 32)),
        ((16, B, 32), "NBC", (B, 4, 32)),
        ((B, 31, T), "BCT", (B, T, 31)),
    ],
)
def test_a_layout_is_found_from_its_shape(shape, layout, pooled):
    assert find_layouts(shape, batch=B, frames=T) == [layout]
    assert pool_over_space(torch.zeros(shape), layout, batch=B, frames=T).shape == pooled


@pytest.mark.parametrize(
    ("shape", "many"),
    [
        ((B, 6, 4, 7, 7), True),  # six channels or six frames
        ((B * T, 16, 16, 16), True),  # channels first or last
        ((B, 64, T), True),  # 64 tokens, or 64 channels of each frame
        ((B + 1, 32, 8, 14, 14), False),
        ((B, 32, 8, 14, 7), False),
        ((B * T + 1, 24, 7, 7), False),
        ((B, 7, 32), False),  # for no number of frames do seven tokens form squares
        ((B,), False),
        ((), False),
    ],
)
def test_a_shape_with_several_layouts_or_none(shape, many):
    assert (len(find_layouts(shape, batch=B, frames=T)) > 1) == many
    assert len(find_layouts(shape, batch=B, frames=T)) != 1


@given(steps=st.sampled_from([1, 2, 4, 8]), side=st.integers(1, 4), token=st.booleans(), seed=st.integers(0, 999))
def test_one_map_in_every_layout_pools_to_the_same(steps, side, token, seed):
    maps = torch.randn(B, steps, 5, side, side, generator=torch.Generator().manual_seed(seed))
    expected = maps.mean((3, 4))
    tokens = maps.flatten(3).transpose(2, 3)  # B T N C

    def like(layout, x, tubelet=None):
        return torch.allclose(pool_over_space(x, layout, batch=B, frames=T, tubelet=tubelet), expected, atol=1e-6)

    assert like("BTCHW", maps)
    assert like("BCTHW", maps.transpose(1, 2))
    assert like("BTHWC", maps.permute(0, 1, 3, 4, 2))
    assert like("FCHW", maps.flatten(0, 1))
    assert like("FHWC", maps.flatten(0, 1).permute(0, 2, 3, 1))
    assert like("FC", expected.flatten(0, 1))
    assert like("BCT", expected.transpose(1, 2))
    flat = tokens.flatten(1, 2)
    if token:
        flat = torch.cat((torch.full((B, 1, 5), 99.0), flat), 1)
    assert like("BNC", flat, tubelet=T // steps)
    assert like("NBC", flat.transpose(0, 1), tubelet=T // steps)
    if side > 1:  # a single token and a class token are two tokens
        tokens = torch.cat((torch.full((B, steps, 1, 5), 99.0), tokens), 2) if token else tokens
        assert like("BTNC", tokens)
        assert like("FNC", tokens.flatten(0, 1))


@pytest.mark.parametrize(
    ("tokens", "frames", "tubelet", "found"),
    [
        (1568, 16, None, (8, 0)),  # VideoMAE: 16 frames of 224 pixels, tubelets of 2
        (1569, 8, None, (8, 1)),  # TimeSformer: 8 frames, one class token
        (3137, 32, None, (16, 1)),  # ViViT: 32 frames, tubelets of 2, one class token
        (8192, 64, None, (32, 0)),  # V-JEPA 2: 64 frames of 256 pixels
        (64, 16, None, (16, 0)),
        (64, 16, 4, (4, 0)),  # only the recipe can say this
        (0, 8, None, None),
        (7, 8, None, None),
    ],
)
def test_time_steps(tokens, frames, tubelet, found):
    assert find_time_steps(tokens, frames, tubelet) == found
