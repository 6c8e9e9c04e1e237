"""How often different clips count as near-copies, and how often re-encoded videos are found.

python -m bench.suites.robustness.near_copies ../shared/data/human_motion ...

Prints what 30,000 clips cost, and for each folder of videos: pairs of different files that count as near-copies (all
pairs are compared), and for each way of encoding a video again, how many of the copies are found. docs/data.md states
the numbers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from skd_bench.listing.folder_walk import LeftOut, find_clips
from skd_bench.video.clip import decode_clip
from skd_bench.video.types import ClipError, Preprocessing, Sampling
from skd_edge.data.store.copies import find_near_copies
from skd_edge.data.store.fingerprints import HASH_BITS, Fingerprints, compute_fingerprints

SAMPLING = Sampling(8)
PREPROCESS = Preprocessing(64, 64, "crop", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
COPIES, SEED, BLOCK = 100, 0, 64
# codec, options, scale, brightness
WAYS: dict[str, tuple[str, dict[str, str], float, float]] = {
    "H.264, CRF 23": ("libx264", {"crf": "23"}, 1.0, 1.0),
    "H.264, CRF 35": ("libx264", {"crf": "35"}, 1.0, 1.0),
    "half the size": ("libx264", {"crf": "23"}, 0.5, 1.0),
    "15 % lighter": ("libx264", {"crf": "23"}, 1.0, 1.15),
    "MPEG-4": ("mpeg4", {}, 1.0, 1.0),
}


def encode_again(source: Path, target: Path, way: str) -> None:
    """Decode a video and encode it in another way."""
    codec, options, scale, gain = WAYS[way]
    with av.open(str(source)) as read:
        frames = [frame.to_ndarray(format="rgb24") for frame in read.decode(video=0)]
    height, width = (int(side * scale) // 2 * 2 for side in frames[0].shape[:2])
    with av.open(str(target), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            lighter = np.clip(frame * gain, 0, 255).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(lighter, format="rgb24").reformat(width, height)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def join_fingerprints(parts: list[Fingerprints]) -> Fingerprints:
    """The fingerprints of several groups of clips as one."""
    return Fingerprints(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Fingerprints)))


def read_clips(files: list[Path]) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    """The clips that can be decoded."""
    for file in files:
        try:
            yield file, decode_clip(file, SAMPLING, PREPROCESS)
        except ClipError:
            continue


def measure_folder(root: Path) -> None:
    """Print the numbers of one folder."""
    files, parts, pending = [], list[Fingerprints](), list[NDArray[np.uint8]]()
    for file, clip in read_clips([found.path for found in find_clips(root, LeftOut())]):
        files.append(file)
        pending.append(clip)
        if len(pending) == BLOCK:
            parts.append(compute_fingerprints(np.stack(pending)))
            pending = []
    parts += [compute_fingerprints(np.stack(pending))] if pending else []
    fingerprints, rows = join_fingerprints(parts), np.arange(len(files))
    began = time.perf_counter()
    pairs = {(min(i, j), max(i, j)) for i, j in find_near_copies(fingerprints, rows, rows) if i != j}
    seconds = time.perf_counter() - began
    print(f"{root}: {len(files)} clips, {len(pairs)} of {len(files) * (len(files) - 1) // 2} pairs ({seconds:.1f} s)")
    for i, j in sorted(pairs)[:5]:
        print(f"  {files[i]} and {files[j]}")
    drawn = np.sort(np.random.default_rng(SEED).choice(len(files), min(COPIES, len(files)), replace=False))
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            copies = []
            for row in drawn.tolist():
                encode_again(files[row], Path(folder) / "copy.mp4", way)
                copies.append(decode_clip(Path(folder) / "copy.mp4", SAMPLING, PREPROCESS))
            both = join_fingerprints([fingerprints, compute_fingerprints(np.stack(copies))])
            found = set(find_near_copies(both, len(files) + np.arange(len(copies)), rows))
            hits = sum((len(files) + place, row) in found for place, row in enumerate(drawn.tolist()))
            print(f"  {way}: {hits} of {len(copies)} found; {len(found) - hits} pairs with other clips", flush=True)


def measure_cost() -> None:
    """Print the cost of 30,000 clips: fingerprints of 8 frames of 64x64 pixels, and the comparison of all splits."""
    rng, count, test = np.random.default_rng(SEED), 30_000, 9_000
    clips = rng.integers(0, 256, (64, SAMPLING.frames, PREPROCESS.height, PREPROCESS.width, 3), dtype=np.uint8)
    began = time.perf_counter()
    compute_fingerprints(clips)
    each = (time.perf_counter() - began) / len(clips)
    drawn = Fingerprints(
        rng.integers(0, 256, (count, 16), dtype=np.uint8),
        rng.integers(0, 256, (count, HASH_BITS // 8), dtype=np.uint8),
        rng.uniform(0, 255, (count, 8, 16, 16)).astype(np.float16),
    )
    began = time.perf_counter()
    found = list(find_near_copies(drawn, np.arange(test), np.arange(test, count)))
    seconds = time.perf_counter() - began
    print(
        f"{count} clips: fingerprints {1e3 * each:.2f} ms each; {test} against {count - test}: {seconds:.1f} s, "
        f"{len(found)} pairs"
    )


def main() -> None:
    """Measure each folder, and the cost of a large set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    measure_cost()
    for folder in parser.parse_args().folders:
        measure_folder(folder)


if __name__ == "__main__":
    main()
