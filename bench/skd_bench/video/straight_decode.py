"""Straight decoding: the whole stream, from its first to its last packet. It defines what a clip is.

The contract of `decode_clip`, and of the times that `watch` and `predict --stream` report:

- **Stream**: the first video stream that is not the cover picture of a sound file.
- **Pictures**: those that FFmpeg's decoder gives when it gets every packet of the stream, in its order. A packet
  without a picture (hidden frames, "nothing changed" of a screen recording) is no loss and no picture: the picture
  before it is shown longer, also at the end. Edit lists are applied as FFmpeg applies them: what they cut away is
  decoded but not shown.
- **Time**: `stream.clock.iter_times`. The first picture is shown at 0. The last one lasts as long as its packet
  declares, or else as long as the few before it. If no packet has a timestamp, all pictures last equally long: pictures
  are counted, not packets.
- **Choice**: `frame_choice.choose_positions`: the picture that is shown at each sampled time.
- **Pixels**: the display matrix turns and mirrors a picture, in all eight orientations. Pixels that are not square are
  stretched. Interlaced pictures are scaled as progressive ones, as FFmpeg's `scale` does: both fields are averaged.
- **Damage**: a packet that cannot be decoded, and a picture with a reported error, are losses; so are the packet in
  which the file ends, and any damaged picture of a codec whose pictures do not refer to others (nothing conceals an
  error there). If more than half is lost, the file is refused.

Nothing is skipped here, and nothing that the container states is believed, except for timestamps. `decoder` gives the
same clips in less time, where it can show that they are the same. What it does not show: pictures that are damaged in a
part of the file that no chosen frame needs. They are not looked for. `dense` and `segment` sampling count them, because
an average frame is the duration divided by the number of pictures; `uniform` sampling does not need that number.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skd_bench.video.container import open_container
from skd_bench.video.frame_choice import Timetable, choose_positions
from skd_bench.video.resize import FrameResizer
from skd_bench.video.stream.pictures import TimedPictures
from skd_bench.video.types import WHOLE_FILE, ClipSpan, Pixels, Preprocessing, Sampling


def decode_straight(
    path: Path | str,
    sampling: Sampling,
    preprocess: Preprocessing,
    span: ClipSpan = WHOLE_FILE,
    *,
    guess: Sequence[int] = (),
) -> Pixels:
    """Decode the sampled frames of a video from its first packet on.

    Memory does not grow with the video, except for the time of each picture (8 bytes).

    Args:
        path: A video that FFmpeg can read.
        sampling: Which frames are taken.
        preprocess: The size and how frames are fitted to it.
        span: The span of time or the place in an archive, if the clip is not the whole file.
        guess: Positions of the frames that will probably be chosen. If they are, the file is decoded once, else twice.
            It changes no pixel.

    Returns:
        uint8 RGB of shape (T, H, W, 3).

    Raises:
        ValueError: Too few frames can be decoded, or the span is empty.
        av.error.FFmpegError: FFmpeg cannot open the file.
        OSError: The file cannot be read.
    """
    wanted = list(guess) if len(guess) == sampling.frames else []
    timetable, out = _walk_all(path, wanted, preprocess, span)
    chosen = choose_positions(timetable, sampling, span)
    return out if chosen == wanted else _walk_to_last(path, chosen, preprocess, span)


def _walk_all(
    path: Path | str, wanted: Sequence[int], preprocess: Preprocessing, span: ClipSpan
) -> tuple[Timetable, Pixels]:
    """Read to the end of the file or of the span; note when each picture is shown, and resize those that are wanted.

    Raises:
        ValueError: See `decode_straight`.
    """
    times = array("q")  # 8 bytes a picture: all of them are needed to choose
    with open_container(path, offset=span.offset, size=span.size) as container:
        pictures = TimedPictures(container)
        resizer = FrameResizer(len(wanted), preprocess, pictures.stream.sample_aspect_ratio)
        until = None if span.end is None else round(span.end / pictures.rule.tick)
        for time, frame in pictures:
            while resizer.done < len(wanted) and wanted[resizer.done] == len(times):
                resizer.write_frame(frame)
            times.append(time)
            if pictures.has_timestamps and until is not None and time >= until:
                break
        reason = pictures.explain_loss(whole=not span.is_timed)
    if reason is not None:
        raise ValueError(reason)
    if not pictures.has_timestamps:
        return Timetable(np.arange(len(times), dtype=np.int64), len(times), None), resizer.out
    return Timetable(np.asarray(times, np.int64), pictures.find_end(), pictures.rule.tick), resizer.out


def _walk_to_last(path: Path | str, wanted: Sequence[int], preprocess: Preprocessing, span: ClipSpan) -> Pixels:
    """Read until the last wanted picture."""
    with open_container(path, offset=span.offset, size=span.size) as container:
        pictures = TimedPictures(container)
        resizer = FrameResizer(len(wanted), preprocess, pictures.stream.sample_aspect_ratio)
        for position, (_, frame) in enumerate(pictures):
            while resizer.done < len(wanted) and wanted[resizer.done] == position:
                resizer.write_frame(frame)
            if resizer.done == len(wanted):
                break
    return resizer.out
