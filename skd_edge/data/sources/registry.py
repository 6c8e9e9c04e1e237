"""The clips of a recipe's section ``data``: one reader for each kind, all with the same result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.errors import UserError
from skd_bench.listing.class_names import normalise_class_name
from skd_bench.listing.folder_walk import VIDEO_ENDINGS_TEXT, LeftOut, find_clips
from skd_edge.data.sources.group_folds import FoldError, GroupFolds, make_group_folds
from skd_edge.data.sources.group_pattern import make_group_finder
from skd_edge.data.sources.listing import (
    SPLITS,
    ClipEntry,
    ClipListing,
    Split,
    check_classes,
    check_validation_labels,
    find_file_copies,
    hold_out,
    make_listing,
)
from skd_edge.data.sources.path_lists import read_path_label_lists
from skd_edge.data.sources.synthetic import CHECKSUM_FILE, RENDERER_VERSION, generate_dataset, generated_classes
from skd_edge.data.sources.tables import read_clip_table
from skd_edge.data.sources.trusted_clips import add_trusted_clips
from skd_edge.data.sources.video_datasets import read_kinetics, read_official_split
from skd_edge.data.sources.webdataset import read_shards
from skd_edge.recipe.data import FolderData, GeneratedData, KineticsData, ListData, OfficialData, ShardData, TableData
from skd_edge.recipe.schema import Recipe, RecipeSection

__all__ = [
    "SPLITS",
    "ClipEntry",
    "ClipListing",
    "Split",
    "is_rendered",
    "list_classes",
    "list_clips",
    "list_folds",
    "list_recipe_clips",
]


def list_clips(
    data: RecipeSection,
    *,
    seed: int,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
    external_labels: bool = False,
) -> ClipListing:
    """List the clips of a recipe's data section.

    Args:
        data: the section; its class selects the reader.
        seed: seed of the splits and of the generated set.
        cache: the cache folder, where the generated set is rendered.
        progress: called with (done, total) while clips are rendered.
        external_labels: whether rules, models or a file of trusted labels will label training clips
            (``Recipe.has_external_labels``). Then training clips may have no label here, and the classes are
            those of the validation clips.

    Raises:
        UserError: Something that the section names is missing, empty or malformed, or the clips cannot be trained on.
    """
    found = _list_source(data, seed=seed, cache=cache, progress=progress)
    if (trusted := getattr(data, "trusted", None)) is not None:
        found = add_trusted_clips(found, trusted, data)
    (check_validation_labels if external_labels else check_classes)(found)
    return found


def list_recipe_clips(recipe: Recipe, cache: Path, progress: Callable[[int, int], None] | None = None) -> ClipListing:
    """List the clips of a recipe: with the splits of its section ``data``, or those of one fold.

    Args:
        recipe: the recipe.
        cache: the cache folder, where the generated set is rendered.
        progress: called with (done, total) while clips are rendered.

    Raises:
        UserError: See `list_clips` and `make_group_folds`.
    """
    external = recipe.has_external_labels
    if recipe.fold is None:
        return list_clips(recipe.data, seed=recipe.seed, cache=cache, progress=progress, external_labels=external)
    listing = list_folds(recipe, cache, progress).make_listing(recipe.fold)
    (check_validation_labels if external else check_classes)(listing)
    return listing


def list_folds(recipe: Recipe, cache: Path, progress: Callable[[int, int], None] | None = None) -> GroupFolds:
    """The clips of a recipe's cross-validation, and the fold of each group.

    Raises:
        UserError: See `list_clips` and `make_group_folds`.
    """
    settings, data = recipe.cross_validation, recipe.data
    if settings is None:
        raise FoldError("cross_validation", "is missing; add it, such as cross_validation: {folds: 5, group: subject}")
    if settings.group is not None:
        data = data.model_copy(update={"group": settings.group})
    settings = settings.model_copy(update={"group": getattr(data, "group", None)})
    listing = _list_source(data, seed=recipe.seed, cache=cache, progress=progress)
    if (trusted := getattr(data, "trusted", None)) is not None:
        listing = add_trusted_clips(listing, trusted, data)
    return make_group_folds(listing, settings, recipe.seed)


@singledispatch
def _list_source(data: RecipeSection, *, seed: int, cache: Path, progress: Any) -> ClipListing:
    raise TypeError(f"no reader is registered for {type(data).__name__}")


@_list_source.register
def _(data: GeneratedData, *, seed: int, cache: Path, progress: Any) -> ClipListing:
    folder = _generated_folder(data, seed, cache)
    generate_dataset(folder, data, seed, progress=progress)
    rules = {split: {"split": [split]} for split in SPLITS}
    table = TableData.model_validate({"kind": "csv", "root": folder, **rules})
    return read_clip_table(table, "rendered by skd-edge; splits by seed")


def _generated_folder(data: GeneratedData, seed: int, cache: Path) -> Path:
    return cache / "generated" / "-".join(map(str, (*data.model_dump().values(), seed, f"v{RENDERER_VERSION}")))


def is_rendered(data: GeneratedData, seed: int, cache: Path) -> bool:
    """Whether the generated set of this recipe and seed is complete in the cache."""
    return (_generated_folder(data, seed, cache) / CHECKSUM_FILE).exists()


def list_classes(recipe: Recipe, cache: Path) -> tuple[str, ...]:
    """The class names of a recipe, without rendering or decoding.

    Raises:
        UserError: See ``list_recipe_clips``.
    """
    if isinstance(recipe.data, GeneratedData):
        return generated_classes(recipe.data)
    return list_recipe_clips(recipe, cache).classes


@_list_source.register
def _(data: TableData, *, seed: int, cache: Path, progress: Any) -> ClipListing:
    return read_clip_table(data)


@_list_source.register
def _(data: ListData, *, seed: int, cache: Path, progress: Any) -> ClipListing:
    return read_path_label_lists(data)


@_list_source.register
def _(data: OfficialData, *, seed: int, cache: Path, progress: Any) -> ClipListing:
    return read_official_split(data, seed)


@_list_source.register
def _(data: KineticsData, *, seed: int, cache: Path, progress: Any) -> ClipListing:
    return read_kinetics(data)


@_list_source.register
def _(data: ShardData, *, seed: int, cache: Path, progress: Any) -> ClipListing:
    return read_shards(data)


@_list_source.register
def _(data: FolderData, *, seed: int, cache: Path, progress: Any) -> ClipListing:
    rng, reader = np.random.default_rng(seed), _FolderReader(data)
    if data.root is None:
        entries, note = reader.list_validation_folders(rng)
    else:
        entries, note = reader.list_labelled_folders(data.root, rng)
    unlabelled, copies = reader.list_unlabelled(data.unlabelled, entries) if data.unlabelled else ([], "")
    labelled = {e.name for e in entries if e.split == "train"}
    if twice := [e.name for e in unlabelled if e.name in labelled]:
        raise UserError(f"{twice[0]} lies in {data.root} and in {data.unlabelled}; rename one of the files")
    return make_listing([*entries, *unlabelled], note, copies, reader.left_out.to_text(), note_folder_mismatches=False)


class _FolderReader:
    """Lists the clips of folders.

    Attributes:
        left_out: what the folders hold besides clips.
    """

    def __init__(self, data: FolderData) -> None:
        self.data, self.find_group, self.left_out = data, make_group_finder(data.group), LeftOut()

    def list_labelled_folders(self, root: Path, rng: np.random.Generator) -> tuple[list[ClipEntry], str]:
        """Class folders of training clips; validation and test clips have their own folders or are shares of these."""
        data = self.data
        train = self._list_class_folders(root, "train")
        entries = list(train)
        held_out: tuple[tuple[Split, Path | None, float], ...]
        held_out = (("val", data.val_root, data.val), ("test", data.test_root, data.test))
        for split, folder, share in held_out:
            if folder is not None:
                entries += self._list_class_folders(folder, split)
            else:
                entries = hold_out(entries, split, share * len(train), rng)
        note = "validation or test is a share of the training folder: its labels are as reliable as those of the folder"
        return entries, "folders" if data.val_root and data.test_root else note

    def list_validation_folders(self, rng: np.random.Generator) -> tuple[list[ClipEntry], str]:
        """No folder labels training clips: class folders for validation and for test, or one folder for both."""
        data = self.data
        assert data.val_root is not None  # FolderData requires it
        if data.test_root is not None:
            own = self._list_class_folders(data.val_root, "val") + self._list_class_folders(data.test_root, "test")
            return own, "folders; no training clip is labelled by a folder"
        validation = self._list_class_folders(data.val_root, "train")
        shared = hold_out(validation, "test", data.test * len(validation), rng)
        entries = [replace(e, split="val") if e.split == "train" else e for e in shared]
        return entries, "test is a share of the validation folder; no training clip is labelled by a folder"

    def list_unlabelled(self, root: Path, labelled: Sequence[ClipEntry]) -> tuple[list[ClipEntry], str]:
        """The clips below ``root`` at any depth as unlabelled training clips, and a remark on those left out.

        Those of ``labelled`` are not listed again. Copies of validation and test clips are left out: who looks at some
        videos of a folder often copies them.
        """
        if not root.is_dir():
            raise UserError(f"{root} is not a folder; data.unlabelled names a folder of videos")
        known = {e.path for e in labelled}  # so no validation clip is trained on
        excluded = [self.data.trusted]
        clips = find_clips(root, self.left_out, pictures=self.data.pictures, excluded=excluded)
        clips = [clip for clip in clips if clip.path not in known]
        copies = find_file_copies((c.path for c in clips), (e.path for e in labelled if e.split != "train"))
        found = [
            ClipEntry(clip.path, clip.name, "", "train", self.find_group(clip.name))
            for clip in clips
            if clip.path not in copies
        ]
        if not found:
            raise UserError(
                f"{root} holds no videos other than those of data.root, val_root and test_root and their copies "
                f"(endings: {VIDEO_ENDINGS_TEXT}); data.unlabelled names a folder of additional videos"
            )
        first = min((c.name for c in clips if c.path in copies), default="")
        note = (
            f"{len(copies)} unlabelled videos are copies of validation or test clips and were left out (first: {first})"
        )
        return found, note if copies else ""

    def _list_class_folders(self, root: Path, split: Split) -> list[ClipEntry]:
        """The clips ``root/<class>/<clip>``; the folders ``data.unlabelled`` and ``data.trusted`` are not classes."""
        if not root.is_dir():
            raise UserError(f"{root} is not a folder; data.root names a folder with one folder for each class")
        pictures, excluded = self.data.pictures, [self.data.unlabelled, self.data.trusted]
        clips = find_clips(root, self.left_out, by_class=True, pictures=pictures, excluded=excluded)
        if not clips:
            left_out = self.left_out.to_text()
            raise UserError(
                f"{root} holds no videos: expected {root}/<class>/<video>, endings {VIDEO_ENDINGS_TEXT}"
                + (f" ({left_out})" if left_out else "")
            )
        return [
            ClipEntry(c.path, c.name, normalise_class_name(c.name.partition("/")[0]), split, self.find_group(c.name))
            for c in clips
        ]
