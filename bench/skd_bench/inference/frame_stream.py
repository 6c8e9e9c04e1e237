"""A long video or a camera, frame by frame: what is seen now, with a state that travels from frame to frame."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skd_bench.bundle.manifest import Manifest, resolve_bundle_path
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.metrics.accuracy import softmax
from skd_bench.video.clip import prepare_input
from skd_bench.video.container import open_camera, open_container
from skd_bench.video.types import ClipError, Pixels, Preprocessing

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_CAMERA_PREFIX = "/dev/video"


@dataclass(frozen=True)
class FramePrediction:
    """What a stream shows after one frame.

    Attributes:
        seconds: Since the beginning of the stream, of this frame.
        frame: Its number among those that were looked at, from 0.
        label: The most likely class of the last frames.
        probability: Of it, 0..1, smoothed.
        milliseconds: The network's, for this frame.
    """

    seconds: float
    frame: int
    label: str
    probability: float
    milliseconds: float


class FrameClassifier:
    """A per-frame network on ONNX Runtime's CPU provider, its state kept between frames.

    Raises:
        UserError: The file is missing or is no per-frame network, or onnxruntime is not installed.
    """

    def __init__(self, path: Path | str, *, threads: int = 1) -> None:
        from skd_bench.runtimes import find_runtime

        find_runtime("ort").import_libraries()
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own unrelated exception types
            raise UserError(f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}") from error
        inputs = {tensor.name: tensor for tensor in self._session.get_inputs()}
        if set(inputs) != {"frame", "state"}:
            raise UserError(f"{path} takes {', '.join(inputs)}; a per-frame network takes frame and state")
        self.dtype = "uint8" if inputs["frame"].type == "tensor(uint8)" else "float32"
        self.state_size = int(inputs["state"].shape[1])
        self.reset_state()

    def reset_state(self, streams: int = 1) -> None:
        """Begin anew: nothing was seen yet."""
        self.state = np.zeros((streams, self.state_size), np.float32)

    def step(self, frame: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits ``(B, C)`` of one frame of each stream, as the file takes it; the state goes on."""
        logits, self.state = self._session.run(["logits", "next_state"], {"frame": frame, "state": self.state})
        return np.asarray(logits, np.float32)


def classify_stream(
    bundle: Path | str, source: Path | str, *, every: int | None = None, smooth: int | None = None, threads: int = 1
) -> Iterator[FramePrediction]:
    """Look at a video from its first frame to its last, or at a camera until somebody stops.

    Args:
        bundle: With a per-frame file, which a causal student has.
        source: A video file, or a camera: ``/dev/video0`` (Linux).
        every: Look at each ``every``-th frame; None: as the clips were sampled (dense: their stride, else 1).
        smooth: The answer is the mean over so many frames; None: as many as the network was trained on.
        threads: Threads a frame may use.

    Raises:
        UserError: The bundle has no per-frame file or it was changed; the source cannot be read.
    """
    manifest = Manifest.load(bundle)
    if manifest.stream is None:
        raise UserError(f"{bundle} has no per-frame file: train a student with `causal: true`, or leave out --stream")
    path = resolve_bundle_path(bundle, manifest.stream.file)
    if not path.is_file() or sha256_file(path) != manifest.stream.sha256:
        raise UserError(f"{path} is not the file that its manifest describes; copy the bundle again")
    stream = FrameClassifier(path, threads=threads)
    sampling = manifest.sampling
    step = every or (sampling.stride if sampling.kind == "dense" else 1)
    last: deque[npt.NDArray[np.float32]] = deque(maxlen=smooth or sampling.frames)
    for number, (seconds, pixels) in enumerate(iter_frames(source, manifest.preprocess, step)):
        network_input: npt.NDArray[Any] = pixels[np.newaxis]
        if stream.dtype != "uint8":
            network_input = prepare_input(network_input[np.newaxis], manifest.preprocess, stream.dtype)[:, :, 0]
        begin = time.perf_counter()
        last.append(stream.step(network_input))
        milliseconds = 1000 * (time.perf_counter() - begin)
        shares = softmax(np.mean(last, axis=0))[0]
        best = int(shares.argmax())
        yield FramePrediction(
            round(seconds, 3), number, manifest.classes[best], float(shares[best]), round(milliseconds, 3)
        )


def iter_stream_lines(
    bundle: Path | str, sources: Iterable[Path | str], as_json: bool, **stream_options: Any
) -> Iterator[str]:
    """What `watch` sees, in words: a line where the answer changes and one at the end; or JSON, a line a frame.

    Raises:
        UserError: See `watch`.
    """
    for source in sources:
        current_label, times = "", list[float]()
        for prediction in classify_stream(bundle, source, **stream_options):
            times.append(prediction.milliseconds)
            if as_json:
                yield json.dumps({"video": str(source), **asdict(prediction)})
            elif prediction.label != current_label:
                yield f"{source}: {prediction.seconds:8.2f} s  {prediction.label} {prediction.probability:.1%}"
            current_label = prediction.label
        if not as_json:
            yield f"{source}: {len(times)} frames, {np.median(times):.2f} ms a frame (network alone, median)"


def iter_frames(source: Path | str, preprocess: Preprocessing, every: int) -> Iterator[tuple[float, Pixels]]:
    """Seconds and pixels ``(H, W, 3)`` of each ``every``-th frame, upright and fitted; one in memory at a time.

    Raises:
        ClipError: There is no such video, or no frame of it can be decoded.
    """
    from av.error import FFmpegError

    from skd_bench.video.resize import FrameResizer

    shown = 0
    try:
        with _open_source(source) as container:
            [video, *_] = container.streams.video or [None]
            if video is None:
                raise ClipError(source, "it holds no video")
            resizer = FrameResizer(1, preprocess, video.sample_aspect_ratio)
            for frame in _iter_decoded_frames(container, video):
                if shown % every == 0:
                    resizer.done = 0
                    resizer.write_frame(frame)
                    yield frame.time if frame.time is not None else shown / 25, resizer.out[0].copy()
                shown += 1
    except (FFmpegError, OSError) as error:
        raise ClipError(source, str(getattr(error, "strerror", None) or error)) from error
    if not shown:
        raise ClipError(source, "none of its frames decodes")


def _iter_decoded_frames(container: Any, video: Any) -> Iterator[VideoFrame]:
    """Frames in the order in which they are shown; damaged packets are passed over."""
    from av.error import EOFError as EndOfFile
    from av.error import InvalidDataError

    packets = container.demux(video)
    while True:
        try:
            packet = next(packets, None)
        except (EndOfFile, InvalidDataError):
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except InvalidDataError:
            continue
        yield from frames


def _open_source(source: Path | str) -> Any:
    return open_camera(str(source)) if str(source).startswith(_CAMERA_PREFIX) else open_container(source)
