"""WebDataset shards: samples in tar files. Videos are decoded from the tar file; nothing is unpacked."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tarfile import TarInfo

from skd_bench.errors import UserError
from skd_bench.files import open_regular_file
from skd_bench.listing.folder_walk import VIDEO_ENDINGS_TEXT, is_video_name
from skd_bench.listing.paths import format_path_name
from skd_bench.video.types import ClipSpan
from skd_edge.data.sources.class_labels import ListedLabel, read_class_file, resolve_labels
from skd_edge.data.sources.group_pattern import make_group_finder
from skd_edge.data.sources.listing import (
    SPLITS,
    ClipEntry,
    ClipListing,
    EntryCollector,
    make_listing,
)
from skd_edge.recipe.data import ShardData

_MAX_TEXT_BYTES = 1 << 20  # a larger member cannot be a label or JSON, and is not read
SampleMembers = dict[str, tuple[TarInfo, bytes]]  # by ending: the member, and its content (b"" for videos)


def read_shards(data: ShardData) -> ClipListing:
    """List the samples of uncompressed tar shards; a clip is named ``shard/key.mp4``.

    Raises:
        UserError: A shard does not exist, is compressed or truncated; a sample has no video; or a validation or test
            sample has no label.
    """
    from webdataset.shardlists import expand_urls

    classes, group = read_class_file(data.root, data.classes), make_group_finder(data.group)
    samples: list[ClipEntry] = []
    labels: list[ListedLabel] = []
    for split in SPLITS:
        for shard in expand_urls(getattr(data, split)):
            for key, members in _iter_samples(data.root / shard):
                at = f"{data.root / shard}: sample {key}"
                ending = next((e for e in members if is_video_name(f"x.{e}")), None)
                if ending is None:
                    raise UserError(
                        f"{at} has no video (only: {', '.join(members)}); a video ends in {VIDEO_ENDINGS_TEXT}"
                    )
                label = _read_label(members, data.label, at)
                if not label and split != "train":
                    raise UserError(
                        f"{at} has no {data.label!r}, and it is in {split}; only training clips may be unlabelled"
                    )
                (video, _), name = members[ending], format_path_name(f"{shard}/{key}.{ending}")
                span = ClipSpan(offset=video.offset_data, size=video.size)
                samples.append(ClipEntry(data.root / shard, name, "", split, group(name), (), span))
                labels.append(ListedLabel(label, at))
    collector, names = EntryCollector(), resolve_labels(labels, classes, data.labels_are, data.classes)
    for sample, name, listed in zip(samples, names, labels, strict=True):
        collector.add(replace(sample, label=name), listed.at)
    return make_listing(
        collector.entries,
        "shards",
        collector.duplicate_note,
        classes=classes or None,
        note_folder_mismatches=False,
    )


def _iter_samples(path: Path) -> Iterator[tuple[str, SampleMembers]]:
    """Yield the key and the members of each sample.

    A sample is a run of neighbouring members whose names are equal up to the first dot.
    """
    from webdataset.tariterators import base_plus_ext

    current_key, members = "", SampleMembers()
    try:
        with open_regular_file(path) as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
            for member in tar:
                key, ending = base_plus_ext(member.name)
                tar.members = []  # type: ignore[attr-defined]  # else tarfile collects all of them in memory
                if key is None or not member.isreg():
                    continue
                if key != current_key and members:
                    yield current_key, members
                    members = {}
                current_key, text = key, b""
                if not is_video_name(f"x.{ending}") and member.size <= _MAX_TEXT_BYTES:
                    content = tar.extractfile(member)
                    text = content.read() if content else b""
                members[ending] = member, text
        if members:
            yield current_key, members
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check data.root and the names of the shards in the recipe") from None
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"cannot read the shard {path}: {error}; a shard must be an uncompressed, complete tar file"
        ) from None


def _read_label(members: SampleMembers, where: str, at: str) -> str:
    """The label of a sample: the text of a member, or a key of its JSON member; empty if it has none."""
    ending, _, key = where.partition(".") if where.startswith("json.") else (where, "", "")
    if ending not in members:
        return ""
    try:
        text = members[ending][1].decode("utf-8-sig").strip()
        if not key:
            return text
        return str(json.loads(text).get(key, "")).strip()
    except (ValueError, AttributeError) as error:
        raise UserError(f"{at}: the member {ending!r} cannot be read: {error}") from None
