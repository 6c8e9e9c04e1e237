"""``skd-edge data scan``: decode every clip before a run starts, and list the unreadable clips with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skd_bench.untrusted.text import escape_name
from skd_edge.data.csv_files import write_sheet
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.listing import SPLITS, ClipEntry
from skd_edge.data.sources.registry import list_clips
from skd_edge.data.store.builder import Decoding
from skd_edge.data.store.clip_store import ensure_store
from skd_edge.recipe.schema import Recipe

Progress = Callable[[int, int], None]
_MAX_LISTED = 10  # unreadable clips that are printed; the CSV lists all


@dataclass(frozen=True)
class ScanResult:
    """The result of a scan.

    Attributes:
        readable: number of readable clips by split.
        bad: the unreadable clips, each with the reason.
        required_share: share of the clips that must be readable, in [0, 1] (the recipe's ``min_clips``).
        note: the remarks of the listing, such as repeated rows.
        out: the CSV that lists the unreadable clips.
    """

    readable: dict[str, int]
    bad: tuple[tuple[ClipEntry, str], ...]
    required_share: float
    note: str
    out: Path

    def to_text(self) -> str:
        """Format the result for the terminal; at most 10 unreadable clips are listed."""
        good, total = sum(self.readable.values()), sum(self.readable.values()) + len(self.bad)
        splits = ", ".join(f"{count} {split}" for split, count in self.readable.items())
        lines = [f"{good} of {total} clips can be read ({splits})", f"data: {self.note}"]
        lines += [f"  {escape_name(entry.name)}: {escape_name(reason)}" for entry, reason in self.bad[:_MAX_LISTED]]
        lines += [f"  and {len(self.bad) - _MAX_LISTED} more"] if len(self.bad) > _MAX_LISTED else []
        if good < self.required_share * total:
            lines.append(f"compress will refuse to start: min_clips requires {self.required_share:.0%}")
        elif self.bad:
            lines.append("compress leaves them out and lists them in its report")
        return "\n".join([*lines, f"wrote {self.out}"])


def scan_clips(
    recipe: Recipe,
    cache: Path,
    out: Path,
    *,
    timeout: float = 60.0,
    processes: int | None = None,
    progress: Callable[[str], Progress | None] = lambda activity: None,
) -> ScanResult:
    """Decode every clip of a recipe into its store, and write a list of the unreadable clips.

    Args:
        recipe: the recipe that names the clips.
        cache: the cache folder, which holds the stores.
        out: the CSV to write, with columns path, label, split, reason; only the header if every clip is readable.
        timeout: seconds that decoding a clip may take.
        processes: number of decoding processes; None: one for each core.
        progress: called with an activity (``"rendered"``, ``"decoded"``); returns the function that is then called
            with (done, total), or None.

    Raises:
        UserError: The clips cannot be listed, or the disk is full.
    """
    external_labels = recipe.labels.has_external_sources
    listing = list_clips(
        recipe.data, seed=recipe.seed, cache=cache, progress=progress("rendered"), external_labels=external_labels
    )
    decoding = Decoding(
        *inference_preprocessing(recipe.clip), recipe.clip.decoder, processes, timeout, progress("decoded")
    )
    _, store_info = ensure_store(listing, decoding, cache)
    reasons = [q["reason"] for q in store_info["quarantined"]]
    bad = tuple((listing.entries[i], reason) for i, reason in zip(store_info["bad"], reasons, strict=True))
    listed, lost = Counter(e.split for e in listing.entries), Counter(e.split for e, _ in bad)
    write_sheet(out, ("path", "label", "split", "reason"), [(e.name, e.label, e.split, reason) for e, reason in bad])
    return ScanResult({s: listed[s] - lost[s] for s in SPLITS}, bad, recipe.min_clips, listing.note, out)
