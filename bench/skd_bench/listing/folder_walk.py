"""The one way in which folders of videos are walked: what is a clip, and what was left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from skd_bench.listing.paths import format_path_name
from skd_bench.video.frame_folder import PICTURE_SUFFIXES

# Endings of the containers and elementary streams with pictures that FFmpeg reads. Endings that usually hold something
# else (.dat, .ogg, .txt), and raw pixels, which need a size that is not in the file (.yuv), are not clips.
_VIDEO_ENDINGS = """
    mp4 m4v mov qt mj2 3gp 3g2 f4v ismv psp insv lrv mkv mk3d webm avi divx amv
    ts mts m2ts m2t tp trp mpg mpeg mpe m1v m2v mpv vob vro mod tod evo dvd ogv ogm
    wmv asf wtv dvr-ms flv kux swf rm rmvb ivr mxf gxf nut nuv ivf obu av1
    264 h264 avc h26l 265 h265 hevc 266 h266 vvc evc apv h261 h263 avs avs2 avs3 cavs drc vc1 vc2 rcv
    dv dif dnxhd dnxhr mjpeg mjpg y4m gif apng flm roq bik bk2 smk fli flc nsv dav ifv usm viv moflex cdxl cpk yop
"""
VIDEO_SUFFIXES = frozenset(f".{ending}" for ending in _VIDEO_ENDINGS.split())
VIDEO_ENDINGS_TEXT = ".mp4 .mkv .mov .avi .webm .mts .gif and the other endings that FFmpeg knows"
PictureFolders = Literal["auto", "always"]
_MAX_GROUPS = 6  # kinds of left-out files that are named in a remark


@dataclass
class LeftOut:
    """What a walk left out, counted by kind (an ending, "hidden", ...) and by folder relative to the walk's root."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, kind: str, folder: str, count: int = 1) -> None:
        """Count something that was left out."""
        self.counts[kind, folder] += count

    def to_text(self) -> str:
        """One remark, such as ``left out: 6 .txt (a, b), 1 hidden (a)``; empty if nothing was left out."""
        kinds = Counter[str]()
        folders: dict[str, list[str]] = {}
        for (kind, folder), count in sorted(self.counts.items()):
            kinds[kind] += count
            folders.setdefault(kind, []).append(folder)
        groups = [
            f"{count} {kind} ({', '.join(folders[kind][:3])}{', ...' if len(folders[kind]) > 3 else ''})"
            for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
        ]
        more = [f"{len(groups) - _MAX_GROUPS} other kinds"] if len(groups) > _MAX_GROUPS else []
        return f"left out: {', '.join([*groups[:_MAX_GROUPS], *more])}" if groups else ""


@dataclass(frozen=True)
class FoundClip:
    """One clip of a folder.

    Attributes:
        path: the video, or the folder of pictures.
        name: its path relative to the walk's root, with ``/`` as separator; valid Unicode.
    """

    path: Path
    name: str


def is_video_name(name: str) -> bool:
    """Whether a file name has the ending of a video, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def find_clips(
    root: Path,
    left_out: LeftOut,
    *,
    by_class: bool = False,
    pictures: PictureFolders = "auto",
    excluded: Iterable[Path | None] = (),
) -> list[FoundClip]:
    """Find the clips below a folder, at any depth, in a stable order.

    A clip is a file with the ending of a video, or a folder that directly holds several pictures (JPEG, PNG) and no
    video. Hidden files and folders are left out. A linked folder is read once: after the real folders, and only if it
    is none of those that were read, so that links cannot form a loop.

    Args:
        root: the folder.
        left_out: counts what is not a clip.
        by_class: the layout is ``root/<class>/<clip>``: what lies directly in ``root`` is not a clip and is not
            counted, and a class folder itself is not a clip.
        pictures: "auto": folders of pictures are clips only where there is no video at all below ``root``, because
            beside videos they are usually thumbnails. "always": they are clips everywhere.
        excluded: folders that are not read.

    Raises:
        OSError: ``root`` itself cannot be read.
    """
    walk = _FolderWalk(root, left_out, by_class, {_identify(p) for p in excluded if p is not None})
    walk.run()
    videos = [FoundClip(root / name, format_path_name(name)) for name in walk.videos]
    if pictures == "auto" and videos:
        for folder, endings in walk.picture_folders.items():
            for ending, count in endings.items():
                left_out.add(ending, format_path_name(folder), count)
        return sorted(videos, key=lambda clip: clip.path)
    folders = [FoundClip(root / name, format_path_name(name)) for name in walk.picture_folders]
    return sorted([*videos, *folders], key=lambda clip: clip.path)


def expand_folders(paths: Iterable[Path], left_out: LeftOut) -> list[Path]:
    """Replace each folder by the clips in it; a file, or a folder that is a clip itself, stays as it is.

    A folder that directly holds several pictures is a clip itself if there is no video in it at any depth, also if
    folders in it hold pictures too, such as optical flow. A folder that cannot be read stays as it is.

    Args:
        paths: files and folders.
        left_out: counts what the folders hold besides clips.
    """
    expanded: list[Path] = []
    for path in paths:
        rest = LeftOut()
        try:
            clips = find_clips(path, rest) if os.path.isdir(path) else []
        except OSError:  # who reads the clips says why
            clips = []
        direct_pictures = sum(rest.counts[ending, "."] for ending in PICTURE_SUFFIXES)
        if clips and direct_pictures > 1 and not any(is_video_name(clip.name) for clip in clips):
            clips = []
        if clips:
            left_out.counts.update(rest.counts)
        expanded += [clip.path for clip in clips] or [path]
    return expanded


class _FolderWalk:
    """State of a walk: names relative to the root of the videos and of the folders of pictures."""

    def __init__(self, root: Path, left_out: LeftOut, by_class: bool, seen: set[tuple[int, int]]) -> None:
        self.root, self.left_out, self.by_class, self.seen = root, left_out, by_class, seen
        self.videos: list[str] = []
        self.picture_folders: dict[str, Counter[str]] = {}
        self._links: list[str] = []

    def run(self) -> None:
        """Read the real folders, then the linked ones that were not read yet."""
        self.seen.add(_identify(self.root))
        self._read_tree("")
        while self._links:
            name = self._links.pop(0)
            if (identity := _identify(self.root / name)) in self.seen:
                self.left_out.add("linked folder that is read already", format_path_name(name))
                continue
            self.seen.add(identity)
            self._read_tree(name)

    def _read_tree(self, top: str) -> None:
        """Read a folder and the real folders below it."""
        folders = [top]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.root / folder) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                if not folder:
                    raise
                self.left_out.add("folder that cannot be read", format_path_name(folder))
                continue
            folders += reversed([*self._read_folder(folder, found)])

    def _read_folder(self, folder: str, entries: list[os.DirEntry[str]]) -> Iterator[str]:
        """Sort the entries of a folder; yields the names of its real folders."""
        files: list[str] = []
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            kind = _classify_entry(entry)
            if entry.name.startswith("."):
                self.left_out.add(
                    "hidden folder" if kind == "folder" else "hidden file", format_path_name(folder or ".")
                )
            elif kind == "folder":
                if entry.is_symlink():
                    self._links.append(name)
                elif (identity := _identify(self.root / name)) not in self.seen:
                    self.seen.add(identity)
                    yield name
            elif kind == "file":
                files.append(entry.name)
            else:
                self.left_out.add("broken link or device", format_path_name(folder or "."))
        if self.by_class and not folder:  # tables and lists belong beside the class folders, videos do not
            loose = Counter(os.path.splitext(name)[1].lower() for name in files if is_video_name(name))
            for ending, count in loose.items():
                self.left_out.add(f"{ending} outside of the class folders", ".", count)
            return
        self._sort_files(folder, files)

    def _sort_files(self, folder: str, files: list[str]) -> None:
        videos = [name for name in files if is_video_name(name)]
        self.videos += [f"{folder}/{name}" if folder else name for name in videos]
        others = Counter(
            os.path.splitext(name)[1].lower() or "without an ending" for name in files if not is_video_name(name)
        )
        picture_count = sum(others[ending] for ending in PICTURE_SUFFIXES)
        may_be_clip = folder and not (self.by_class and "/" not in folder)
        if may_be_clip and picture_count > 1 and not videos:
            self.picture_folders[folder] = Counter({e: others.pop(e) for e in PICTURE_SUFFIXES if e in others})
        for ending, count in others.items():
            self.left_out.add(format_path_name(ending), format_path_name(folder or "."), count)


def _classify_entry(entry: os.DirEntry[str]) -> Literal["folder", "file", "other"]:
    """What an entry of a folder is, or what it links to; "other" if that cannot be found out."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else "other"
    except OSError:  # links that form a loop, a link into a folder that may not be entered, a damaged disk
        return "other"


def _identify(folder: Path) -> tuple[int, int]:
    """Device and inode of a folder: equal for a folder and for links to it; (-1, -1) if it does not exist."""
    try:
        status = folder.stat()
    except OSError:
        return -1, -1
    return status.st_dev, status.st_ino
