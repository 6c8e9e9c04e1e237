"""``skd-edge data scan --verify``: compares two ways of decoding on a user's own files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.untrusted.text import escape_name
from skd_bench.video.clip import decode_clip, decode_clip_straight
from skd_bench.video.types import ClipError, ClipSpan, Preprocessing, Sampling
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.listing import ClipEntry
from skd_edge.data.sources.registry import list_recipe_clips
from skd_edge.data.store.builder import limit_decoding_time
from skd_edge.data.store.worker_pool import WorkerPool
from skd_edge.recipe.schema import Recipe

Progress = Callable[[int, int], None]
_MAX_LISTED = 10  # clips that are printed
_STRAIGHT_FACTOR = 10  # straight decoding of a long file may take so many times as long


@dataclass(frozen=True)
class VerifyResult:
    """The comparison of both ways.

    Attributes:
        equal: number of clips that are equal, frame for frame; unreadable both ways counts as equal.
        different: the clips that differ, each with what differs.
        not_compared: the clips whose decoding took too long or ended its process, each with the reason.
    """

    equal: int
    different: tuple[tuple[ClipEntry, str], ...]
    not_compared: tuple[tuple[ClipEntry, str], ...] = ()

    def to_text(self) -> str:
        """Format the result for the terminal; at most 10 clips of each kind are listed."""
        total = self.equal + len(self.different) + len(self.not_compared)
        lines = [f"{self.equal} of {total} clips are equal to a decoding of every frame from the first to the last"]
        lines += _format_clips(self.different)
        if self.different:
            lines.append("this is a fault of skd-edge: please report it with one of the files")
        if self.not_compared:
            lines.append(f"{len(self.not_compared)} could not be compared (--timeout gives them more time)")
        return "\n".join([*lines, *_format_clips(self.not_compared)])


def _format_clips(clips: Sequence[tuple[ClipEntry, str]]) -> list[str]:
    lines = [f"  {escape_name(entry.name)}: {escape_name(reason)}" for entry, reason in clips[:_MAX_LISTED]]
    return [*lines, f"  and {len(clips) - _MAX_LISTED} more"] if len(clips) > _MAX_LISTED else lines


def verify_decoding(
    recipe: Recipe,
    cache: Path,
    *,
    timeout: float = 60.0,
    processes: int | None = None,
    progress: Progress | None = None,
) -> VerifyResult:
    """Decode every clip of a recipe as training does and straight, and compare the pixels. Nothing is written.

    Args:
        recipe: the recipe that names the clips.
        cache: the cache folder.
        timeout: seconds that decoding a clip may take, more for a large file; straight decoding gets ten times as long.
        processes: number of decoding processes; None: one for each core.
        progress: called with (done, total).

    Raises:
        UserError: The clips cannot be listed.
    """
    entries = list_recipe_clips(recipe, cache).entries
    pool = WorkerPool(
        make_clip_verifier,
        inference_preprocessing(recipe.clip),
        processes=min(processes or len(os.sched_getaffinity(0)), max(len(entries), 1)),
        task_timeout=lambda task: limit_decoding_time(timeout, *task) * (1 + _STRAIGHT_FACTOR),
    )
    found: dict[int, str] = {}
    tasks = ((number, (str(entry.path), entry.span)) for number, entry in enumerate(entries))
    for done, (number, reason) in enumerate(pool.run(tasks), 1):
        if reason is not None:
            found[number] = reason
        if progress:
            progress(done, len(entries))
    named = [(number, (entries[number], found[number])) for number in sorted(found)]
    different = tuple(clip for number, clip in named if number not in pool.unfinished)
    not_compared = tuple(clip for number, clip in named if number in pool.unfinished)
    return VerifyResult(len(entries) - len(found), different, not_compared)


def make_clip_verifier(sampling: Sampling, preprocess: Preprocessing) -> Callable[[int, Any], str | None]:
    """Make the task function of a ``WorkerPool``: of a number and ``(path, span)``; returns what differs, or None."""

    def compare_ways(number: int, source: tuple[str, ClipSpan]) -> str | None:
        found: list[Any] = []
        for decode in (decode_clip, decode_clip_straight):
            try:
                found.append(decode(source[0], sampling, preprocess, source[1]))
            except ClipError as error:
                found.append(error.reason)
        as_trained, straight = found
        if isinstance(as_trained, str) or isinstance(straight, str):
            both = isinstance(as_trained, str) and isinstance(straight, str)
            readable = "cannot be read only straight" if isinstance(straight, str) else "can be read only straight"
            return None if both else f"{readable}: {as_trained if isinstance(as_trained, str) else straight}"
        wrong = int((as_trained != straight).any(axis=(1, 2, 3)).sum())
        return f"{wrong} of {len(np.asarray(straight))} frames differ" if wrong else None

    return compare_ways
