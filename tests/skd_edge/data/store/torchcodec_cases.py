"""Decodes unusual videos with torchcodec and with PyAV; test_torchcodec.py runs it in a process that finds FFmpeg.

Each line of the output: a name, the decoder, the largest and the mean difference of a pixel in grey levels.
"""

from __future__ import annotations

import sys
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from skd_bench.video.clip import decode_clip
from skd_bench.video.types import WHOLE_FILE, ClipError, ClipSpan, Preprocessing, Sampling
from skd_edge.data.store import torchcodec

SIZE = Preprocessing(24, 32, "crop", (0.45,) * 3, (0.225,) * 3)
SAMPLINGS = (Sampling(5), Sampling(3, "dense", 2), Sampling(6, "segment", 1, 3))


def write(path: Path, count: int = 20, *, codec="libx264", pix_fmt="yuv420p", pts=None, size=(48, 64), **more) -> Path:
    """A bright square moves over a grey gradient, which becomes brighter with every frame."""
    options = {"crf": "8", "preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(str(path), "w", format=more.get("format")) as container:
        video = container.add_stream(codec, rate=10, options=options)
        video.height, video.width, video.pix_fmt, video.gop_size = *size, pix_fmt, 7
        if "rotation" in more:
            video.set_display_rotation(more["rotation"])
        if "aspect" in more:
            video.codec_context.sample_aspect_ratio = more["aspect"]
        if pts is not None:
            video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            image = np.full((*size, 3), 20 + 8 * i, np.uint8)
            image += np.linspace(0, 60, size[1]).astype(np.uint8)[None, :, None]
            image[2 * i % size[0] :, : size[1] // 4, 0] = 200
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt, interpolation=0xC2020)
            if pts is not None:
                frame.pts, frame.time_base = pts[i], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def write_two_streams(path: Path) -> Path:
    """The first stream is darker than the second, which FFmpeg calls the best one: it is the default."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10, options={"crf": "8"}) for _ in range(2)]
        for number, video in enumerate(streams):
            video.height, video.width, video.pix_fmt = 48 << number, 64 << number, "yuv420p"
        streams[0].disposition, streams[1].disposition = Disposition(0), Disposition.default
        for i in range(20):
            for number, video in enumerate(streams):
                image = np.full((48 << number, 64 << number, 3), 20 + 100 * number + 3 * i, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        for video in streams:
            container.mux(video.encode(None))
    return path


def videos(folder: Path) -> dict[str, tuple[Path, ClipSpan]]:
    """The unusual files and their spans, by name."""
    uneven = np.cumsum([0, *([40, 200, 90, 10] * 5)])[:20].tolist()
    found = {
        "plain": write(folder / "plain.mp4"),
        "one frame": write(folder / "one.mp4", 1),
        "variable rate": write(folder / "vfr.mkv", pts=uneven),
        "late start": write(folder / "late.mkv", pts=[5000 + 100 * i for i in range(20)]),
        "odd size": write(folder / "odd.mkv", codec="ffv1", pix_fmt="yuv444p", size=(33, 51)),
        "grey": write(folder / "grey.mkv", codec="ffv1", pix_fmt="gray"),
        "ten bits": write(folder / "ten.mp4", pix_fmt="yuv420p10le"),
        "turned 90": write(folder / "r90.mp4", rotation=90),
        "turned 180": write(folder / "r180.mp4", rotation=180),
        "turned 270": write(folder / "r270.mp4", rotation=270),
        "wide pixels": write(folder / "sar.mp4", aspect=Fraction(2, 1)),
        "turned wide pixels": write(folder / "both.mp4", rotation=90, aspect=Fraction(2, 1)),
        "no duration": write(folder / "endless.mkv"),
        "two streams": write_two_streams(folder / "two.mp4"),
        "no timestamps": write(folder / "raw.h264", format="h264"),
    }
    data = found["no duration"].read_bytes()
    at = data.index(b"\x44\x89\x88")  # EBML Duration, 8 bytes; replaced by a Void of the same length
    found["no duration"].write_bytes(data[:at] + b"\xec\x89\x88" + data[at + 3 :])
    with tarfile.open(folder / "shard.tar", "w") as tar:
        tar.add(found["plain"], "plain.mp4")
        member = tar.getmembers()[0]
    parts = {name: (path, WHOLE_FILE) for name, path in found.items()}
    with tarfile.open(folder / "shard.tar") as tar:
        member = tar.getmembers()[0]
    parts["in a tar"] = folder / "shard.tar", ClipSpan(offset=member.offset_data, size=member.size)
    parts["a span"] = found["plain"], ClipSpan(0.5, 1.5)
    return parts


def write_unreadable(folder: Path) -> dict[str, Path]:
    """Files that are not videos, or truncated ones."""
    whole = (folder / "plain.mp4").read_bytes()
    files = {"empty": b"", "text": b"not a video" * 99, "cut off": whole[: len(whole) // 2]}
    for name, data in files.items():
        (folder / f"{name}.mp4").write_bytes(data)
    return {name: folder / f"{name}.mp4" for name in [*files, "missing"]}


def main() -> None:
    """Decode every file with both."""
    torchcodec.require_torchcodec()
    folder = Path(sys.argv[1])
    for name, (path, part) in videos(folder).items():
        most, mean = 0, 0.0
        for sampling in SAMPLINGS:
            decoded = torchcodec.decode_with_torchcodec(path, sampling, SIZE, part)
            off = np.abs(decoded.astype(int) - decode_clip(path, sampling, SIZE, part))
            most, mean = max(most, int(off.max())), max(mean, float(off.mean()))
        own = part == WHOLE_FILE and torchcodec._try_decode(path, SAMPLINGS[0], SIZE) is not None
        print(name, "torchcodec" if own else "PyAV", most, round(mean, 3), sep="\t")
    for name, path in write_unreadable(folder).items():
        reasons = []
        for decode in (decode_clip, torchcodec.decode_with_torchcodec):
            try:
                decode(path, SAMPLINGS[0], SIZE)
                reasons.append("decoded")
            except ClipError as error:
                reasons.append(error.reason)
        assert reasons[0] == reasons[1] != "decoded", (name, reasons)


if __name__ == "__main__":
    main()
