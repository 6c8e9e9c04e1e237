"""Scans and loads a thousand broken videos, and compares five thousand others with straight decoding.

    python -m bench.suites.robustness.fuzz_videos [--count 1000] [--compared 5000]

The videos have flipped bits, missing ends, swapped or spliced containers, huge declared sizes, zero frame rates or
inserted random bytes. Every file must either give a clip or be set aside with a reason. The parent process may not
crash or hang, its memory may not grow with the number of files, and no temporary file or process may be left over. A
clip that is accepted must be the one that straight decoding gives. Writes bench/results/fuzz_videos.json; a comparison
that was interrupted continues from bench/results/fuzz_videos.part.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np

from bench.suites.robustness.odd_videos import CODECS as ODD_CODECS
from bench.suites.robustness.odd_videos import make_video
from skd_bench.device.info import read_device_info
from skd_bench.files import write_json
from skd_bench.video.types import WHOLE_FILE, Preprocessing, Sampling
from skd_edge.data.sources.listing import ClipEntry, Split, make_listing
from skd_edge.data.sources.synthetic import render_clip, write_video
from skd_edge.data.store.builder import Decoding
from skd_edge.data.store.clip_store import ensure_store, open_store
from skd_edge.data.store.worker_pool import WorkerPool
from skd_edge.data.verify import make_clip_verifier

RESULTS = Path(__file__).resolve().parents[2] / "results/fuzz_videos.json"
SAMPLING, PREPROCESS = Sampling(8), Preprocessing(32, 32, "crop", (0.45,) * 3, (0.225,) * 3)
PART = RESULTS.with_suffix(".part.json")
CHUNK = 250  # videos that are made, compared and removed at a time
CONTAINERS = {"mp4": "libx264", "mkv": "libx264", "avi": "mpeg4", "webm": "libvpx", "ts": "libx264"}


def seeds(folder: Path) -> list[bytes]:
    """An intact video in each container, as bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "seed.mp4", images := render_clip("spin_cw", frames=24, size=64, difficulty=0.3, seed=0))
    found = [(folder / "seed.mp4").read_bytes()]
    for ending, codec in CONTAINERS.items():
        with av.open(str(folder / f"seed.{ending}"), "w", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream(codec, rate=15)
            stream.width = stream.height = 64
            stream.pix_fmt, stream.thread_count = "yuv420p", 1  # with threads, no two files are equal
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode(None))
        found.append((folder / f"seed.{ending}").read_bytes())
    return found


ODD_SEEDS = (
    "h264 open.mkv",
    "hevc.mp4",
    "mpeg2.mpg",
    "mpeg4.avi",
    "msmpeg4.avi",
    "vp9.webm",
    "mjpeg.avi",
    "prores.mov",
)


def odd_seeds(folder: Path) -> list[bytes]:
    """Intact videos of other codecs, as bytes."""
    found = []
    for name in ODD_SEEDS:
        codec, _, ending = name.partition(".")
        found.append(make_video(folder / f"odd.{ending}", ODD_CODECS[codec]).read_bytes())
    return found


# ------------------------------------------------------------------------------------------ ways to break a video
def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 8, 64, 512])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_head(data: bytearray, rng: random.Random) -> None:
    """Change bytes near the start or the end of the file, where the headers are (MP4 has them at the end)."""
    first = rng.choice([0, max(len(data) - 1500, 0)])
    for _ in range(rng.choice([1, 4, 16])):
        data[rng.randrange(first, min(first + 1500, len(data)))] = rng.randrange(256)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.choice([1, 100, 5000]))


def declare(data: bytearray, rng: random.Random) -> None:
    """Overwrite header fields with extreme values: huge widths, heights, counts and lengths."""
    names = (b"avc1", b"tkhd", b"stsz", b"stco", b"stts", b"mvhd", b"mdhd", b"avih", b"strf", b"idx1", b"\xb0", b"\xba")
    places = [at for name in names for at in _find_all(data, name)] or [0]
    for _ in range(rng.choice([1, 3])):
        at = rng.choice(places) + rng.randrange(48)
        data[at : at + rng.choice([2, 4, 8])] = rng.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff", b"\0" * 4])


def zero_rate(data: bytearray, rng: random.Random) -> None:
    """Set time scales and frame durations in the headers to zero."""
    for name in (b"mdhd", b"mvhd", b"stts", b"avih", b"strh"):
        for at in _find_all(data, name):
            where = at + len(name) + rng.randrange(28)
            data[where : where + 4] = bytes(4)


def _find_all(data: bytearray, name: bytes) -> list[int]:
    found, at = [], data.find(name)
    while at >= 0:
        found.append(at)
        at = data.find(name, at + 1)
    return found


BREAKS = {f.__name__: f for f in (flip_bits, flip_head, truncate, insert, declare, zero_rate)}


def make_broken_videos(folder: Path, count: int, seed: int = 0) -> list[tuple[Path, str]]:
    """Write ``count`` broken files; equal seeds give equal files.

    Returns:
        The path of each file and how it was broken: a name in ``BREAKS``, "swapped" or "spliced". File endings are
        random.
    """
    rng, sound = random.Random(seed), seeds(folder / "seeds")
    sound += odd_seeds(folder / "seeds")
    endings, made = [*CONTAINERS, "mov"], []
    for i in range(count):
        kind = rng.choice([*BREAKS, "swapped", "spliced"])
        data, ending = bytearray(rng.choice(sound)), rng.choice(endings)
        if kind == "swapped":  # the head of one container on the body of another
            other = rng.choice(sound)
            cut = rng.randrange(16, 2000)
            data = bytearray(other[:cut] + data[cut:])
        elif kind == "spliced":  # a piece of a video, this one or another, somewhere else
            other, at = rng.choice([data, rng.choice(sound)]), rng.randrange(len(data))
            begin, size = rng.randrange(len(other)), rng.choice([188, 1000, 8000])
            data[at : at + rng.choice([0, size])] = other[begin : begin + size]
        else:
            BREAKS[kind](data, rng)
        path = folder / f"{i:04d}.{ending}"
        path.write_bytes(data)
        made.append((path, kind))
    return made


# ------------------------------------------------------------------------------------------ through scan and loader
def run(folder: Path, count: int, *, processes: int | None = None, patience: float = 30.0) -> dict[str, Any]:
    """Scan broken videos together with intact ones, open the store, and read every clip.

    Args:
        folder: An empty folder for videos and cache.
        count: How many broken videos.
        processes: Worker processes of the scan; None: the default.
        patience: Seconds after which a video counts as hung.

    Returns:
        Counts of decoded, set aside, hung and crashed videos, the reasons, and memory in MiB.

    Raises:
        AssertionError: A file has neither a clip nor a reason, or files or processes are left over.
    """
    made = make_broken_videos(folder / "videos", count)
    sound = folder / "sound.mp4"
    write_video(sound, render_clip("blink", frames=8, size=32, difficulty=0.1, seed=1))
    entries = [ClipEntry(p, p.name, "ab"[i % 2], "train", p.name) for i, (p, _) in enumerate(made)]
    splits: tuple[Split, ...] = ("train", "train", "val", "test")
    for i, (split, label) in enumerate(product(splits, "ab")):
        entries.append(ClipEntry(sound, f"sound {i}.mp4", label, split, f"{i}"))
    listed, cache = make_listing(entries), folder / "cache"
    began, before = time.monotonic(), _private_mib()
    _, card = ensure_store(listed, Decoding(SAMPLING, PREPROCESS, processes=processes, timeout=patience), cache)
    seconds = time.monotonic() - began
    clips = open_store(listed, Decoding(SAMPLING, PREPROCESS), cache, min_clips=0.0)
    reasons = {q["path"]: q["reason"] for q in card["quarantined"]}
    assert all(reasons.values())
    assert len(reasons) + card["clips"] == len(entries)
    assert set(clips.train.names) | set(clips.val.names) | set(clips.test.names) | set(reasons) == {
        e.name for e in entries
    }
    for first in range(0, len(clips.train), 32):
        assert np.asarray(clips.train.clips[first : first + 32]).shape[1:] == (8, 32, 32, 3)
    assert not multiprocessing.active_children()
    assert sorted(p.name for p in cache.rglob("*") if p.is_file()) == [
        "clips.crc32",
        "clips.npy",
        "fingerprints.bin",
        "lock",
        "store.json",
    ]
    counts = Counter(kind for _, kind in made)
    failed = Counter(kind for path, kind in made if path.name in reasons)
    return {
        "videos": count,
        "seconds": round(seconds, 1),
        "decoded": count - len(reasons),
        "set_aside": len(reasons),
        "hung": sum("did not end" in r for r in reasons.values()),
        "crashed": sum("ended the process" in r for r in reasons.values()),
        "kinds": {kind: {"videos": counts[kind], "set_aside": failed[kind]} for kind in sorted(counts)},
        "reasons": dict(Counter(_generalise_reason(r) for r in reasons.values()).most_common()),
        "parent_grew_mib": round(_private_mib() - before, 1),
        "largest_worker_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
    }


def compare(count: int, folder: Path, *, processes: int, part: Path | None = None) -> dict[str, Any]:
    """Decode broken videos as training does and straight, and compare the pixels of those that are accepted.

    Args:
        count: How many broken videos.
        folder: An empty folder for them; a chunk at a time is in it.
        processes: Worker processes.
        part: Holds the results so far, for the next call to continue; None: nothing is stored.

    Returns:
        Counts of videos, of hung and crashed ones, and those whose clips differ, by name; ``undefined`` are those that
        FFmpeg itself decodes to other pixels in another run, see `is_undefined`.
    """
    found: dict[str, Any] = {"videos": 0, "hung": 0, "crashed": 0, "undefined": {}, "different": {}}
    if part is not None and part.exists():
        found = json.loads(part.read_text())
    while found["videos"] < count:
        chunk = found["videos"] // CHUNK
        size = min(CHUNK, count - found["videos"])
        with tempfile.TemporaryDirectory(dir=folder) as own:
            made = make_broken_videos(Path(own), size, seed=1 + chunk)
            pool = WorkerPool(
                make_clip_verifier, (SAMPLING, PREPROCESS), processes=processes, task_timeout=lambda task: 60.0
            )
            for number, reason in pool.run((i, (str(path), WHOLE_FILE)) for i, (path, _) in enumerate(made)):
                if reason is None:
                    continue
                if "did not end" in reason or "ended the process" in reason:
                    found["hung" if "did not end" in reason else "crashed"] += 1
                else:
                    kind = "undefined" if is_undefined(made[number][0]) else "different"
                    found[kind][f"seed {1 + chunk}, {made[number][0].name}, {made[number][1]}"] = reason
        found["videos"] += size
        print(f"compared {found['videos']} of {count}, {len(found['different'])} differ", flush=True)
        if part is not None:
            write_json(part, found)
    return found


def is_undefined(path: Path) -> bool:
    """Whether a bare loop gives other pixels if it holds on to the last frames.

    So it is where a decoder reports no error, but leaves a part of a damaged picture as it lies in memory.
    """
    digests = []
    for size in (1, 8):
        held: deque[Any] = deque(maxlen=size)
        pixels = hashlib.sha256()
        with suppress(av.error.FFmpegError), av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.thread_count = "NONE", 1
            for packet in container.demux(stream):
                with suppress(av.error.FFmpegError):
                    for frame in packet.decode() if packet.size else ():
                        held.append(frame)
                        pixels.update(frame.to_ndarray().tobytes())
        digests.append(pixels.digest())
    return digests[0] != digests[1]


def _private_mib() -> float:
    """Private memory of this process in MiB, without the pages of the memory-mapped store."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def _generalise_reason(reason: str) -> str:
    return "".join("0" if c.isdigit() else c for c in reason).replace("00", "0")[:60]


def main() -> None:
    """Write broken videos, scan and load them, compare others, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--compared", type=int, default=5000)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        compared = compare(options.compared, Path(folder), processes=cores, part=PART)
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), options.count)
    write_json(RESULTS, {"device": read_device_info(), "cores": cores, **found, "compared": compared})
    PART.unlink(missing_ok=True)
    print({k: v for k, v in found.items() if k != "reasons"}, compared)


if __name__ == "__main__":
    main()
