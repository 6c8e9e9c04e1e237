"""Pooling of a substage's output (maps, tokens or vectors) to one vector for each time step: ``(B, T, C)``.

A layout is a string of axes: B clips, T time steps, F = B*T folded frames, C channels, H and W space, N tokens, M
tokens with time as the inner axis. The output's T' may be smaller than the clip's T; h is the side of a square.

=======  =============================================  ==============================================
layout   meaning                                        recognised by
=======  =============================================  ==============================================
BCTHW    maps of a 3-D network                          5 axes, the last two equal, T at most the frames
BTCHW    the same, frames first                         5 axes, the last two equal, T at most the frames
BTHWC    the same, channels last                        5 axes, the two before the last equal
FCHW     maps of folded frames                          4 axes, the last two equal, F a multiple of B
FHWC     the same, channels last                        4 axes, the two in the middle equal
BTNC     tokens frame by frame                          4 axes, B and T as in the clip
BNC      tokens of the whole clip, time outermost       3 axes, B first, N = T'*h*h (+1 class token)
BMC      tokens of the whole clip, time innermost       never: its shape is the same as that of BNC
FNC      tokens of folded frames, N = h*h (+1)          3 axes, F more than B
NBC      tokens, sequence first                         3 axes, B second
BCT      vectors, channels first                        3 axes, the last as long as the clip
FC       vectors of folded frames, or one per clip      2 axes
=======  =============================================  ==============================================

Clips are square, so the two axes of space are equal. If exactly one layout fits a shape, the adapter uses it. If none
or several fit, it reports an error, and the user must set ``teacher.layout``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from torch import Tensor


def find_layouts(shape: Sequence[int], *, batch: int, frames: int, tubelet: int | None = None) -> list[str]:
    """Find every layout that an output of this shape could have.

    Args:
        shape: the output's shape for ``batch`` clips.
        batch: B; it must not be 1, because other axes may have length 1.
        frames: T, the frames that the network got.
        tubelet: number of frames that one token covers; None: found from the shape.

    Returns:
        The layouts, in the order of the table above; empty if none fits.
    """
    fits: dict[str, bool] = {}
    match tuple(shape):
        case (_, p, q, r, s):
            fits = {"BCTHW": q <= frames and r == s, "BTCHW": p <= frames and r == s, "BTHWC": p <= frames and q == r}
        case (_, p, q, r):
            fits = {"FCHW": q == r, "FHWC": p == q, "BTNC": p == frames}
        case (n, p, q):
            tokens = [find_time_steps(size, frames, tubelet) is not None for size in (n, p)]
            fits = {"BNC": tokens[1], "FNC": n > batch, "NBC": tokens[0], "BCT": q == frames}
        case (_, _):
            fits = {"FC": True}
    return [layout for layout, fit in fits.items() if fit and _has_matching_batch(layout, shape, batch)]


def _has_matching_batch(layout: str, shape: Sequence[int], batch: int) -> bool:
    """Whether the axis B has the length ``batch``, or the axis F a multiple of it."""
    if "F" in layout:
        return shape[0] % batch == 0
    return shape[layout.index("B")] == batch


def find_time_steps(tokens: int, frames: int, tubelet: int | None = None) -> tuple[int, int] | None:
    """Find the number of time steps in the tokens of one clip.

    The result is the largest T' that divides the frames and leaves a square number of tokens for each step, without a
    class token or with one.

    Args:
        tokens: number of tokens of one clip.
        frames: T, the frames that the network got.
        tubelet: number of frames that one token covers; it fixes T' to ``frames // tubelet``.

    Returns:
        T' and the number of class tokens at the start (0 or 1); None if no T' fits.
    """
    spans = (tubelet,) if tubelet else tuple(s for s in range(1, frames + 1) if frames % s == 0)
    for steps in (frames // s for s in spans):
        for extra in (0, 1):
            each, rest = divmod(tokens - extra, max(steps, 1))
            if rest == 0 and each > 0 and _is_square(each):
                return steps, extra
    return None


def pool_over_space(x: Tensor, layout: str, *, batch: int, frames: int, tubelet: int | None = None) -> Tensor:
    """Average one output over space; class tokens are left out.

    Args:
        x: the output, with the axes of ``layout``.
        layout: a layout of the table above.
        batch: B.
        frames: T, the frames that the network got.
        tubelet: see ``find_time_steps``.

    Returns:
        Features ``(B, T', C)``, where T' is the number of time steps in the output.
    """
    if layout == "NBC":
        x, layout = x.transpose(0, 1), "BNC"
    if layout in ("BNC", "BMC"):
        steps, extra = find_time_steps(x.shape[1], frames, tubelet) or (1, 0)
        shape, after = ((steps, -1), "BTNC") if layout == "BNC" else ((-1, steps), "BNTC")
        x, layout = x[:, extra:].unflatten(1, shape), after
    elif "N" in layout:
        place = layout.index("N")
        if _is_square(x.shape[place] - 1) and not _is_square(x.shape[place]):
            x = x.narrow(place, 1, x.shape[place] - 1)  # each frame has a class token
    if layout[0] == "F":
        x, layout = x.unflatten(0, (batch, -1)), "BT" + layout[1:]
    space = [place for place, axis in enumerate(layout) if axis in "HWN"]
    x = x.mean(space) if space else x
    left = [axis for axis in layout if axis not in "HWN"]
    return x.permute([left.index(axis) for axis in "BTC"])


def _is_square(n: int) -> bool:
    return n > 0 and isqrt(n) ** 2 == n
