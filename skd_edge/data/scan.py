"""``skd-edge data scan``: decode every clip before a run; list unreadable clips, and copies across splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.untrusted.text import escape_name
from skd_edge.data.csv_files import write_sheet
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.listing import SPLITS, ClipEntry
from skd_edge.data.sources.registry import list_recipe_clips
from skd_edge.data.store.builder import Decoding
from skd_edge.data.store.clip_store import check_readable_clips, ensure_store, list_readable_clips
from skd_edge.data.store.copies import SplitCopy, describe_copies, explain_refused_copies, find_split_copies
from skd_edge.data.store.fingerprints import load_fingerprints
from skd_edge.recipe.schema import Recipe

Progress = Callable[[int, int], None]
_BAD_COLUMNS = ("path", "label", "split", "reason")
_COPY_COLUMNS = ("path", "split", "original", "original_split", "kind")
_MAX_LISTED = 10  # unreadable clips that are printed; the CSV lists all


@dataclass(frozen=True)
class ScanResult:
    """The result of a scan.

    Attributes:
        readable: number of readable clips by split.
        bad: the unreadable clips, each with the reason.
        note: the remarks of the listing, such as repeated rows.
        out: the CSV that lists the unreadable clips.
        copies: the validation and test clips that are copies of clips in other splits.
        refusal: why compress will refuse to start; None if it will not.
    """

    readable: dict[str, int]
    bad: tuple[tuple[ClipEntry, str], ...]
    note: str
    out: Path
    copies: tuple[SplitCopy, ...]
    refusal: str | None

    def to_text(self) -> str:
        """Format the result for the terminal; at most 10 unreadable clips are listed."""
        good, total = sum(self.readable.values()), sum(self.readable.values()) + len(self.bad)
        splits = ", ".join(f"{count} {split}" for split, count in self.readable.items())
        lines = [f"{good} of {total} clips can be read ({splits})", f"data: {escape_name(self.note)}"]
        lines += [f"  {escape_name(entry.name)}: {escape_name(reason)}" for entry, reason in self.bad[:_MAX_LISTED]]
        lines += [f"  and {len(self.bad) - _MAX_LISTED} more"] if len(self.bad) > _MAX_LISTED else []
        if self.bad and self.refusal is None:
            lines.append("compress leaves them out and lists them in its report")
        lines += describe_copies(self.copies)
        lines += [f"compress will refuse to start: {escape_name(self.refusal)}"] if self.refusal else []
        lines.append(f"wrote {self.out}")
        lines += [f"wrote {name_copies_file(self.out)}"] if self.copies else []
        return "\n".join(lines)


def name_copies_file(out: Path) -> Path:
    """The CSV of the copies, beside that of the unreadable clips."""
    return out.with_name(f"{out.stem}.copies{out.suffix or '.csv'}")


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
            Copies across splits are written beside it (``name_copies_file``).
        timeout: seconds that decoding a clip may take.
        processes: number of decoding processes; None: one for each core.
        progress: called with an activity (``"rendered"``, ``"decoded"``, ``"compared"``); returns the function that
            is then called with (done, total), or None.

    Raises:
        UserError: The clips cannot be listed, or the disk is full.
    """
    external_labels = recipe.has_external_labels
    listing = list_recipe_clips(recipe, cache, progress("rendered"))
    decoding = Decoding(
        *inference_preprocessing(recipe.clip), recipe.clip.decoder, processes, timeout, progress("decoded")
    )
    folder, store_info = ensure_store(listing, decoding, cache)
    reasons = [q["reason"] for q in store_info["quarantined"]]
    bad = tuple((listing.entries[i], reason) for i, reason in zip(store_info["bad"], reasons, strict=True))
    note = "; ".join((listing.note, *listing.trusted_notes))
    listed, lost = Counter(e.split for e in listing.entries), Counter(e.split for e, _ in bad)
    write_sheet(out, _BAD_COLUMNS, [(e.name, e.label, e.split, reason) for e, reason in bad])
    fingerprints = load_fingerprints(folder, store_info["hash"], progress("compared"))
    copies = find_split_copies(fingerprints, list_readable_clips(listing, store_info))
    if copies:
        rows = [(c.clip, c.split, c.original, c.original_split, c.kind) for c in copies]
        write_sheet(name_copies_file(out), _COPY_COLUMNS, rows)
    refusal = None if recipe.allow_test_copies else explain_refused_copies(copies)
    try:
        check_readable_clips(listing, store_info, min_clips=recipe.min_clips, external_labels=external_labels)
    except UserError as error:
        refusal = str(error)
    readable: dict[str, int] = {s: listed[s] - lost[s] for s in SPLITS}
    return ScanResult(readable, bad, note, out, copies, refusal)
