"""The nearest clips of every clip in feature space: exact for few clips, approximate where that would take too long.

Approximate search is an inverted file (IVF), as in faiss: k-means divides the clips into cells, and the clips of a cell
are compared with those in the nearest cells. Number and size of the cells grow with the root of the number of clips N,
so the time grows as N to the power 1.5, not with the square. It is written here because clips of the same group must be
excluded during the search; after it, there may be no other neighbours left. Where one group fills most of the nearest
cells, its clips are compared with equally many clips of other groups, from cells farther away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_EXACT_CLIPS = 8192  # up to so many clips, all of them are compared
_SEARCHED_CELLS = 32
_KMEANS_ROUNDS, _KMEANS_CLIPS_PER_CELL = 6, 100
_BLOCK_ELEMENTS = 8 << 20  # similarities that are in memory at the same time


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of N clips.

    Attributes:
        rows: ``(N, k)`` rows of the neighbours, nearest first; arbitrary where ``similarity`` is -inf.
        similarity: ``(N, k)`` cosines; -inf where a clip has fewer than k neighbours.
    """

    rows: NDArray[np.int64]
    similarity: NDArray[np.float32]


def find_neighbours(
    x: NDArray[np.floating], groups: NDArray[np.int64], count: int, *, exact_clips: int = _EXACT_CLIPS
) -> Neighbours:
    """Find the nearest clips of other groups for each clip.

    Args:
        x: ``(N, D)`` unit vectors.
        groups: ``(N,)`` group of each clip; only clips of other groups are neighbours.
        count: k, the number of neighbours.
        exact_clips: up to so many clips, the neighbours are exact.
    """
    vectors, group_of = torch.from_numpy(np.ascontiguousarray(x, np.float32)), torch.from_numpy(groups)
    rows = torch.zeros(len(vectors), count, dtype=torch.int64)
    similarity = torch.full((len(vectors), count), -torch.inf)
    for queries, candidates in _list_comparisons(vectors, group_of, count, exact_clips):
        targets, target_groups = vectors[candidates].T, group_of[candidates]
        for block in queries.split(max(_BLOCK_ELEMENTS // len(candidates), 1)):
            found = vectors[block] @ targets
            found.masked_fill_(group_of[block][:, None] == target_groups, -torch.inf)
            best, place = found.topk(min(count, len(candidates)), dim=1)
            similarity[block, : best.shape[1]], rows[block, : best.shape[1]] = best, candidates[place]
    return Neighbours(rows.numpy(), similarity.numpy())


def _list_comparisons(
    vectors: Tensor, group_of: Tensor, count: int, exact_clips: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Which clips are compared with which: the first are compared with the second, their candidates.

    Each clip is once among the first, or never if there are no clips of other groups. Its candidates include at least
    ``count`` clips of other groups, or all that exist.
    """
    everything = torch.arange(len(vectors))
    if len(vectors) <= exact_clips:
        yield everything, everything
        return
    centres = _find_centres(vectors)
    cell_of = torch.cat([(block @ centres.T).argmax(1) for block in vectors.split(_BLOCK_ELEMENTS // len(centres))])
    sizes = torch.bincount(cell_of, minlength=len(centres))
    members = everything[cell_of.argsort(stable=True)].split(sizes.tolist())
    for cell, queries in enumerate(members):
        if not len(queries):
            continue
        order = (centres @ centres[cell]).argsort(descending=True, stable=True)
        candidates = _collect_clips(members, sizes, order, 2 * count)
        # The median is the group of more than half of the candidates, if there is one.
        other = group_of != group_of[candidates].median()
        if 2 * int(other[candidates].sum()) >= len(candidates):
            yield queries, candidates
            continue
        if len(outside := queries[other[queries]]):
            yield outside, candidates
        other_sizes = torch.bincount(cell_of[other], minlength=len(centres))
        if len(inside := queries[~other[queries]]) and other_sizes.any():
            candidates = _collect_clips(members, other_sizes, order, len(candidates))
            yield inside, candidates[other[candidates]]


def _collect_clips(members: Sequence[Tensor], sizes: Tensor, order: Tensor, wanted: int) -> Tensor:
    """The clips of the first cells in ``order``: at least `_SEARCHED_CELLS`, and until ``sizes`` add up to ``wanted``.

    Cells whose size is 0 are left out.
    """
    enough = int(torch.searchsorted(sizes[order].cumsum(0), wanted)) + 1
    return torch.cat([members[cell] for cell in order[: max(enough, _SEARCHED_CELLS)].tolist() if sizes[cell]])


def _find_centres(vectors: Tensor) -> Tensor:
    """Centres of the cells, unit vectors, by k-means on a part of the clips; always the same for the same clips."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(vectors), generator=generator)
    cells = int(len(vectors) ** 0.5)
    sample = vectors[order[: _KMEANS_CLIPS_PER_CELL * cells]]
    centres = sample[:cells].clone()
    for _ in range(_KMEANS_ROUNDS):
        nearest = torch.cat([(block @ centres.T).argmax(1) for block in sample.split(_BLOCK_ELEMENTS // cells)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
        lengths = sums.norm(dim=1, keepdim=True)
        centres = torch.where(lengths > 1e-6, sums / lengths.clamp(min=1e-6), centres)  # an empty cell stays
    return centres
