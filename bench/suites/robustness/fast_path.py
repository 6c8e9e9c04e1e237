"""Measures how much faster the fast way of decoding is than the straight one, on long videos.

    python -m bench.suites.robustness.fast_path [--minutes 5]

Both ways decode the same clip of eight frames, alternately, in one process; the straight one gets its frames right in
one pass. Numbers are ratios of processor time, so a busy machine slows both. Writes bench/results/fast_path.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from skd_bench.device.info import read_device_info
from skd_bench.files import write_json
from skd_bench.video.clip import decode_clip
from skd_bench.video.straight_decode import decode_straight
from skd_bench.video.types import Preprocessing, Sampling

RESULTS = Path(__file__).resolve().parents[2] / "results/fast_path.json"
RATE, ROUNDS = 25, 3
SAMPLING, SIZE = Sampling(8), Preprocessing(112, 112, "crop", (0.5,) * 3, (0.25,) * 3)
FILES = {"v.mp4": "libx264", "v.mkv": "libx264", "v.ts": "libx264", "v.avi": "mpeg4"}


def make_long_video(path: Path, codec: str, frames: int) -> Path:
    """A video of 320x240 pixels with a key frame every ten seconds, in which noise moves."""
    noise = np.random.default_rng(0).integers(0, 255, (240, 640, 3), np.uint8) // 4 + 90
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 320, 240, "yuv420p", 10 * RATE
        stream.bit_rate = 3_000_000 if codec == "mpeg4" else 0
        for number in range(frames):
            begin = number * 3 % 320
            image = np.ascontiguousarray(noise[:, begin : begin + 320])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return path


def measure(path: Path, frames: int) -> dict[str, Any]:
    """Processor seconds of both ways, and their ratio; the clips must be equal."""
    guess = [(2 * k + 1) * frames // (2 * SAMPLING.frames) for k in range(SAMPLING.frames)]
    spent: tuple[list[float], list[float]] = ([], [])
    ways: tuple[Callable[[], Any], ...] = (
        lambda: decode_clip(path, SAMPLING, SIZE),
        lambda: decode_straight(path, SAMPLING, SIZE, guess=guess),
    )
    for _ in range(ROUNDS):
        clips = []
        for seconds, way in zip(spent, ways, strict=True):
            began = time.process_time()
            clips.append(way())
            seconds.append(time.process_time() - began)
        assert np.array_equal(*clips), path
    fast, straight = map(statistics.median, spent)
    return {"fast_s": round(fast, 3), "straight_s": round(straight, 3), "ratio": round(straight / fast, 2)}


def main() -> None:
    """Make the videos, measure both ways, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    frames = round(parser.parse_args().minutes * 60 * RATE)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in FILES.items():
            found[name] = measure(make_long_video(Path(folder) / name, codec, frames), frames)
            print(name, found[name], flush=True)
    write_json(RESULTS, {"device": read_device_info(), "frames": frames, "files": found})


if __name__ == "__main__":
    main()
