"""The generated set: clips whose class is one of ten motions, rendered to real H.264 files.

Appearance, background, camera drift, sensor noise and distractors vary independently of the class. Every quantity that
is visible in one frame (place, angle, size, contrast) has the same distribution in every class, so a single frame does
not reveal the class. ``bench/suites/method/generated_set.py`` verifies this with a model on one frame and a model on
shuffled frames.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.device.child_process import end_with_parent, require_child_processes
from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.integrity.checked_files import (
    DamagedFileError,
    describe_files,
    iter_damaged_files,
    read_checked_json,
    report_damage,
    write_checked_json,
)
from skd_edge.run_files.work_lock import lock_work

if TYPE_CHECKING:
    from skd_edge.recipe.data import GeneratedData

MOTION_CLASSES = (
    "blink",
    "grow",
    "move_down",
    "move_left",
    "move_right",
    "move_up",
    "orbit",
    "shrink",
    "spin_ccw",
    "spin_cw",
)
NO_MOTION_CLASS = "nothing"  # a figure that does not move, like most of the input of a detector
RENDERER_VERSION = 1  # part of the name of the rendered folder: raise it when the same seed gives other pixels
CHECKSUM_FILE = "checksums.json"  # of all files of a rendered set, which is complete if it exists
_SETTINGS_FILE, _INDEX_FILE = "generated.json", "index.csv"
_SIZES, _ALPHAS = (0.22, 0.46), (0.5, 1.0)  # ranges of the figure's size (share of the image) and of its opacity

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """The moving figure of one clip; each array is over time ``(T,)``.

    Attributes:
        x: horizontal position, as a share of the image's width; not wrapped, may leave [0, 1).
        y: vertical position, downwards, as a share of the image's height; not wrapped.
        angle: radians.
        size: share of the image.
        alpha: opacity in [0, 1].
    """

    x: Floats
    y: Floats
    angle: Floats
    size: Floats
    alpha: Floats


def _draw_wave(rng: np.random.Generator, t: Floats, turns: float, low: float, high: float, *, triangle: bool) -> Floats:
    """A wave ``(T,)`` between low and high: a triangle (no jumps) or a sawtooth.

    Its phase is random, so that the value at any one time is log-uniform between low and high.
    """
    phase = (rng.random() + turns * t) % 1.0
    ramp = 1.0 - np.abs(2.0 * phase - 1.0) if triangle else phase
    return (low * (high / low) ** ramp).astype(np.float32)


def draw_scene(motion: str, t: Floats, rng: np.random.Generator) -> Scene:
    """Draw the figure of a clip with ``motion`` at the times ``t (T,)`` in [0, 1); an unknown motion stands still."""
    x, y, angle = (
        np.full_like(t, rng.random()),
        np.full_like(t, rng.random()),
        np.full_like(t, rng.uniform(0, 2 * np.pi)),
    )
    size, alpha = _draw_wave(rng, 0 * t, 0, *_SIZES, triangle=False), _draw_wave(rng, 0 * t, 0, *_ALPHAS, triangle=True)
    pace = rng.uniform(0.7, 1.3)
    if motion.startswith("move"):
        step = 0.9 * pace * t
        x = x + step * {"move_right": 1, "move_left": -1}.get(motion, 0)
        y = y + step * {"move_down": 1, "move_up": -1}.get(motion, 0)
    elif motion.startswith("spin"):
        angle = angle + 1.7 * np.pi * pace * t * (1 if motion == "spin_cw" else -1)
    elif motion == "orbit":
        turn = rng.uniform(0, 2 * np.pi) + 2.2 * np.pi * pace * t * rng.choice((-1, 1))
        x, y = x + 0.16 * np.cos(turn), y + 0.16 * np.sin(turn)
    elif motion in ("grow", "shrink"):
        size = _draw_wave(rng, t if motion == "grow" else -t, 1.4 * pace, *_SIZES, triangle=False)
    elif motion == "blink":
        alpha = _draw_wave(rng, t, 2.5 * pace, *_ALPHAS, triangle=True)
    return Scene(x.astype(np.float32), y.astype(np.float32), angle.astype(np.float32), size, alpha)


def _draw_texture(rng: np.random.Generator, u: Floats, v: Floats, waves: int = 4) -> Floats:
    """A smooth periodic colour texture ``(T, H, W, 3)`` about zero, at coordinates ``u, v (T, H, W)``."""
    out = np.zeros((*u.shape, 3), np.float32)
    for _ in range(waves):
        fx, fy = rng.integers(-3, 4, 2)
        wave = np.cos(2 * np.pi * (fx * u + fy * v) + rng.uniform(0, 2 * np.pi)).astype(np.float32)
        out += wave[..., None] * rng.normal(0, 0.5, 3).astype(np.float32)
    return out


def _wrap_offsets(d: Floats) -> Floats:
    return (d + 0.5) % 1.0 - 0.5


def _compute_figure_cover(s: Scene, gx: Floats, gy: Floats, corners: int, pixel: float) -> Floats:
    """Soft mask ``(T, H, W)`` in [0, 1] of the figure; its outline is asymmetric, so that every rotation is visible."""
    dx, dy = _wrap_offsets(gx - s.x[:, None, None]), _wrap_offsets(gy - s.y[:, None, None])
    radius = np.hypot(dx, dy)
    theta = np.arctan2(dy, dx) - s.angle[:, None, None]
    outline = s.size[:, None, None] * (0.62 + 0.2 * np.cos(corners * theta) + 0.38 * np.cos(theta))
    cover: Floats = np.clip((outline - radius) / pixel + 0.5, 0, 1)
    return cover


def _draw_colour(rng: np.random.Generator) -> Floats:
    """A colour ``(3,)`` in [0, 1] that differs clearly from medium grey."""
    colour: Floats = (0.5 + rng.choice((-1, 1)) * rng.uniform(0.3, 0.5, 3)).astype(np.float32)
    return colour


def render_clip(motion: str, *, frames: int, size: int, difficulty: float, seed: int) -> NDArray[np.uint8]:
    """Render one clip; the same arguments give the same pixels.

    Args:
        motion: one of ``MOTION_CLASSES``, or ``NO_MOTION_CLASS``.
        frames: number of frames T.
        size: height and width in pixels.
        difficulty: from 0 to 1; scales texture, camera drift, noise and the number of distractors.
        seed: of all random numbers.

    Returns:
        Frames ``(T, size, size, 3)`` uint8, RGB.
    """
    rng = np.random.default_rng(seed)
    t = (np.arange(frames) / frames).astype(np.float32)
    drift = rng.normal(0, 0.28 * difficulty, 2)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    gx = grid[None, None, :] - (drift[0] * t)[:, None, None].astype(np.float32) + 0 * grid[None, :, None]
    gy = grid[None, :, None] - (drift[1] * t)[:, None, None].astype(np.float32) + 0 * grid[None, None, :]
    image = 0.5 + (0.02 + 0.09 * difficulty) * _draw_texture(rng, gx, gy)
    pixel = 1.5 / size
    still = np.zeros_like(t)
    for _ in range(rng.integers(0, 1 + round(3 * difficulty))):  # distractors move with the background
        distractor = draw_scene("still", still, rng)
        cover = (
            0.7
            * distractor.alpha[:, None, None]
            * _compute_figure_cover(distractor, gx, gy, int(rng.integers(2, 5)), pixel)
        )
        image += cover[..., None] * (_draw_colour(rng) - image)
    actor = draw_scene(motion, t, rng)
    cover = actor.alpha[:, None, None] * _compute_figure_cover(actor, gx, gy, int(rng.integers(2, 5)), pixel)
    image += cover[..., None] * (_draw_colour(rng) - image)
    image *= rng.uniform(0.8, 1.2)
    image += rng.normal(0, 0.01 + 0.08 * difficulty, image.shape).astype(np.float32)
    return np.asarray(np.clip(image, 0, 1) * 255, np.uint8)


def write_video(path: Path, clip: NDArray[np.uint8], *, rate: int = 15) -> None:
    """Write frames ``(T, H, W, 3)`` uint8 RGB as an H.264 file with ``rate`` frames per second, atomically."""
    import av

    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "20"})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        stream.codec_context.time_base = Fraction(1, rate)
        for array in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    write_atomic(path, memory.getvalue())


def generated_classes(settings: GeneratedData) -> tuple[str, ...]:
    """The class names of a generated set, sorted; with ``NO_MOTION_CLASS`` if ``settings.nothing`` is above 0."""
    return tuple(sorted((*MOTION_CLASSES, NO_MOTION_CLASS))) if settings.nothing else MOTION_CLASSES


def _iter_clip_rows(settings: GeneratedData, seed: int) -> Iterator[tuple[str, str, str, int]]:
    """Yield (path, label, split, clip seed) of every clip; classes take turns, so that each split is balanced.

    Among training clips the class without motion is ``settings.nothing`` times as frequent as each other class.
    """
    for s, (split, count) in enumerate((("train", settings.train), ("val", settings.val), ("test", settings.test))):
        turn = generated_classes(settings)
        if split == "train":
            turn += (NO_MOTION_CLASS,) * (settings.nothing - 1)
        for i in range(count):
            motion = turn[i % len(turn)]
            clip_seed = int(np.random.SeedSequence((seed, s, i)).generate_state(1)[0])
            yield f"clips/{split}/{motion}/{motion}_{i:05d}.mp4", motion, split, clip_seed


def _write_clip(folder: Path, frames: int, size: int, difficulty: float, row: tuple[str, str, str, int]) -> None:
    path, motion, _, clip_seed = row
    if not (folder / path).exists():
        write_video(folder / path, render_clip(motion, frames=frames, size=size, difficulty=difficulty, seed=clip_seed))


def generate_dataset(
    folder: Path,
    settings: GeneratedData,
    seed: int,
    *,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render the set into ``folder`` (``clips/<split>/<class>/*.mp4`` and ``index.csv``), unless it is complete.

    Checksums are written last, and compared by later calls: damaged clips are rendered again. After an interruption,
    the next call renders only the missing clips. A second process that needs the set waits for the first.

    Args:
        folder: the folder to fill.
        settings: numbers of clips, frames, size in pixels, difficulty.
        seed: of all clips.
        processes: number of rendering processes.
        progress: called with (done, total).

    Returns:
        The path of ``index.csv`` (columns path, label, split).

    Raises:
        UserError: The folder holds a set that was rendered with other settings or another seed; or this process may not
            start others.
    """
    if not _is_complete(
        folder, _describe_settings(settings, seed)
    ):  # otherwise nothing is written: the folder may be read-only
        with lock_work(folder / ".lock", wait=True):
            _finish_dataset(folder, settings, seed, processes, progress)
    return folder / _INDEX_FILE


def _finish_dataset(
    folder: Path,
    settings: GeneratedData,
    seed: int,
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Render what is missing of a set; the set is locked."""
    rendered_settings = _describe_settings(settings, seed)
    index, settings_file = folder / _INDEX_FILE, folder / _SETTINGS_FILE
    if (stored_settings := _read_settings(settings_file)) is None:
        # Written before the clips, so that an interrupted set is not continued with other settings.
        write_checked_json(settings_file, rendered_settings)
    elif stored_settings != rendered_settings:
        raise UserError(f"{folder} holds clips rendered with other settings; choose another folder, or delete this one")
    if _is_intact(folder):  # another process has rendered it in the meantime
        return
    require_child_processes(f"the generated set {folder}")
    rows = list(_iter_clip_rows(settings, seed))
    write = partial(_write_clip, folder, settings.frames, settings.size, settings.difficulty)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        try:
            for done, _ in enumerate(pool.map(write, rows, chunksize=32), 1):
                if progress:
                    progress(done, len(rows))
        except BaseException:  # Ctrl-C: otherwise the pool would first render all other clips
            pool.shutdown(cancel_futures=True)
            raise
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "split"))
    writer.writerows(row[:3] for row in rows)
    write_atomic(index, text.getvalue())
    files = describe_files(folder, [index.name, *(row[0] for row in rows)])
    write_checked_json(folder / CHECKSUM_FILE, {"files": files})


def _describe_settings(settings: GeneratedData, seed: int) -> dict[str, object]:
    return {"version": RENDERER_VERSION, "seed": seed, **settings.model_dump(mode="json")}


def _is_complete(folder: Path, rendered_settings: Mapping[str, object]) -> bool:
    """Whether a set is complete, has these settings, and all its files are as they were written."""
    try:
        if read_checked_json(folder / _SETTINGS_FILE) != rendered_settings:
            return False
        return not any(iter_damaged_files(folder, read_checked_json(folder / CHECKSUM_FILE)["files"]))
    except (FileNotFoundError, DamagedFileError):
        return False


def _read_settings(path: Path) -> dict[str, Any] | None:
    """The settings that a set was rendered with; None if there are none, or if they are damaged."""
    try:
        return read_checked_json(path)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        report_damage(error, "it is written again")
        return None


def _is_intact(folder: Path) -> bool:
    """Whether a set is complete and all its files are as they were written; the damaged ones are deleted.

    Where the checksums themselves are damaged, no file can be trusted: every clip is rendered again.
    """
    checksum_file = folder / CHECKSUM_FILE
    try:
        damaged = list(iter_damaged_files(folder, read_checked_json(checksum_file)["files"]))
    except FileNotFoundError:
        return False
    except DamagedFileError as unreadable:
        damaged = [unreadable]
        shutil.rmtree(folder / "clips", ignore_errors=True)
    if not damaged:
        return True
    report_damage(damaged[0], f"it is rendered again ({len(damaged)} files)")
    checksum_file.unlink(missing_ok=True)  # first: the set is not complete from here on
    for error in damaged:
        error.path.unlink(missing_ok=True)
    return False
