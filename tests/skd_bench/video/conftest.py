"""Real videos from given images."""

from fractions import Fraction

import av
import pytest

from skd_bench.video import resize


def write_video(
    path, images, *, pts=None, rate=15, codec="libx264", pix_fmt="yuv420p", gop=12, open_gop=False, **stream
):
    """A real video with these images; `pts` in ticks of 1/1000 s makes the frame rate variable."""
    options = {"crf": "4", "preset": "veryfast"} if codec == "libx264" else {}
    if open_gop:
        options["x264-params"] = "open-gop=1:scenecut=0"
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate, options=options)
        height, width = images[0].shape[:2]
        video.width, video.height, video.pix_fmt, video.gop_size = width, height, pix_fmt, gop
        if pts is not None:
            video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        for name, value in stream.items():
            if name == "rotation":
                video.set_display_rotation(value)
            else:
                setattr(video.codec_context, name, value)
        for i, image in enumerate(images):
            # Plain swscale changes greys by up to two levels when it converts to YUV; the accurate mode does not.
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt, interpolation=resize._SCALER)
            if pts is not None:
                frame.pts, frame.time_base = pts[i], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


@pytest.fixture(scope="session")
def write():
    """Writes a video: see `write_video`."""
    return write_video
