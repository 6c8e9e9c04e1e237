"""Measures how fast clips are scanned, stored and loaded, compared with decoding them in a simple PyAV loop.

    python -m bench.suites.training.data_loading [--root FOLDER_OF_VIDEOS]

All numbers are ratios. Both sides are measured alternately in one process tree on the same cores, so that a busy
machine slows both; each number is the median over rounds, with its range. Without --root the generated set is decoded.
Writes bench/results/data_speed.json and docs/data_speed.md. Takes a few minutes on two cores.
"""
# Worker processes import this file again. Heavy imports are therefore inside functions; otherwise both sides start
# slowly.

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

if TYPE_CHECKING:
    from skd_bench.video.types import Preprocessing, Sampling
    from skd_edge.data.sources.listing import ClipListing
    from skd_edge.data.store.clip_store import ClipSplit

ROOT = Path(__file__).resolve().parents[3]
RESULTS, PAGE = ROOT / "bench/results/data_speed.json", ROOT / "docs/data_speed.md"
CORES = len(os.sched_getaffinity(0))
ROUNDS, BATCH = 5, 32
CLIPS, EPOCHS, STEPS = 400, 10, 40


# ------------------------------------------------------------------------------------------ the simple loop
def decode_bare(paths: list[Path], frames: int, size: int) -> None:
    """Decode videos in a simple PyAV loop: select the frames in the middle of equal parts, resize, convert to RGB.

    It uses one thread in each process, as the store does; with more threads it would get more of a busy machine.
    """
    for path in paths:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            count = stream.frames
            wanted = {(2 * k + 1) * count // (2 * frames) for k in range(frames)}
            shown = []
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    shown.append(frame.reformat(size, size, "rgb24", interpolation=0xC2020, threads=1))
            np.stack([frame.to_ndarray() for frame in shown])


def decode_bare_on_all_cores(paths: list[Path], frames: int, size: int) -> None:
    """Run `decode_bare` on all cores, with processes that are started as those of the store."""
    context = get_context("spawn")
    workers = [context.Process(target=decode_bare, args=(paths[i::CORES], frames, size)) for i in range(CORES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


# ------------------------------------------------------------------------------------------ measuring
def time_call(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def core_seconds() -> float:
    """CPU seconds of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def compare_times(
    title: str, one: Callable[[], object], other: Callable[[], object], rounds: int = ROUNDS
) -> dict[str, Any]:
    """Time two calls alternately.

    Returns:
        ``ratio`` (median seconds of ``other`` divided by those of ``one``, round by round), its ``range``, and median
        ``seconds`` and ``core_seconds`` of both.
    """
    found: list[float] = []
    seconds: tuple[list[float], list[float]] = ([], [])
    cores: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for work, side in ((one, 0), (other, 1))[:: 1 if number % 2 else -1]:
            spent = core_seconds()
            seconds[side].append(time_call(work))
            cores[side].append(core_seconds() - spent)
        found.append(seconds[1][-1] / seconds[0][-1])
        print(f"{title} {number + 1} of {rounds}: {seconds[0][-1]:.2f} s, {seconds[1][-1]:.2f} s", flush=True)
    return {
        "ratio": round(statistics.median(found), 3),
        "range": [round(min(found), 3), round(max(found), 3)],
        "seconds": [round(statistics.median(s), 4) for s in seconds],
        "core_seconds": [round(statistics.median(s), 4) for s in cores],
    }


def private_mib() -> float:
    """Private memory of this process in MiB, without the pages of memory-mapped files."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def compare_scan(listed: ClipListing, sampling: Sampling, preprocess: Preprocessing, folder: Path) -> dict[str, Any]:
    """The time of the bare loop divided by that of scan and store; 1 means equally fast."""
    from skd_edge.data.store.builder import Decoding
    from skd_edge.data.store.clip_store import ensure_store

    paths = [e.path for e in listed.entries]

    def store() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        ensure_store(listed, Decoding(sampling, preprocess), folder)

    return compare_times(
        "scan + store, bare loop:", store, lambda: decode_bare_on_all_cores(paths, sampling.frames, preprocess.width)
    )


def compare_epoch(clips: ClipSplit, paths: list[Path], sampling: Sampling, preprocess: Preprocessing) -> dict[str, Any]:
    """Compare one epoch of random batches from the store with decoding the same clips, both on one core."""
    order = np.random.default_rng(0).permutation(len(clips))

    def epoch() -> None:
        for first in range(0, len(order), BATCH):
            clips.clips[order[first : first + BATCH]].sum()  # reads every byte

    return compare_times(
        "store, decoding:", epoch, lambda: decode_bare(paths, sampling.frames, preprocess.width), rounds=3
    )


def compare_decoders(paths: list[Path], sampling: Sampling, preprocess: Preprocessing) -> dict[str, Any] | None:
    """Compare torchcodec with PyAV on one core: a ratio of 2 is twice as fast; None if it cannot be loaded."""
    from skd_bench.errors import UserError
    from skd_bench.video.clip import decode_clip
    from skd_edge.data.store.torchcodec import decode_with_torchcodec, require_torchcodec

    try:
        require_torchcodec()
    except UserError as error:
        print(error, flush=True)
        return None

    def decoding(decode: Callable[..., object]) -> Callable[[], object]:
        return lambda: [decode(path, sampling, preprocess) is None for path in paths]

    return compare_times("torchcodec, PyAV:", decoding(decode_with_torchcodec), decoding(decode_clip), rounds=3)


def measure_batch_share(cache: Path) -> dict[str, Any]:
    """The share of the quickstart's training step that is spent on preparing its batch: view, shift, normalise."""
    import torch

    from skd_edge.data.augmentation import augment_batch
    from skd_edge.data.preprocessing import inference_preprocessing
    from skd_edge.distill.losses.classification import soft_cross_entropy
    from skd_edge.labels.dataset import load_training_data
    from skd_edge.models.builder import build_network
    from skd_edge.recipe.loader import load_recipe

    print(f"timing {STEPS} training steps of the quickstart", flush=True)
    recipe = load_recipe("quickstart", ["data.train=320", "data.val=20", "data.test=20"])  # a step sees one batch
    clips, (_, preprocess) = load_training_data(recipe, cache).clips.train, inference_preprocessing(recipe.clip)
    network = build_network(recipe.students[0], classes=10, clip=recipe.clip, seed=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    size = recipe.training.batch
    shares: list[float] = []
    data_s: list[float] = []
    step_s: list[float] = []
    targets = torch.full((size, 10), 0.1)
    order = np.random.default_rng(0).permutation(len(clips))
    for number in range(STEPS):
        index = order[number * size % (len(order) - size) :][:size]
        began = time.perf_counter()
        x = augment_batch(clips.clips[index], clips.ids[index], number, recipe.augment, preprocess)
        batch_ready = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        logits = network(x).logits
        assert logits is not None
        loss = soft_cross_entropy(logits, targets)
        loss.backward()
        optimizer.step()
        done = time.perf_counter()
        shares.append((batch_ready - began) / (done - began))
        data_s.append(batch_ready - began)
        step_s.append(done - began)
    return {
        "share": round(statistics.median(shares[5:]), 4),
        "range": [round(min(shares[5:]), 4), round(max(shares[5:]), 4)],
        "milliseconds": [round(1e3 * statistics.median(s[5:]), 2) for s in (data_s, step_s)],
        "step": "its smallest student alone, the shortest of the run",
        "threads": torch.get_num_threads(),
    }


def measure_memory(clips: ClipSplit, preprocess: Preprocessing) -> dict[str, Any]:
    """Private memory in MiB after each of ten epochs of augmented batches."""
    from skd_edge.data.augmentation import augment_batch
    from skd_edge.recipe.sections import AugmentationSettings

    found = []
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(clips))
        for first in range(0, len(order), BATCH):
            index = np.sort(order[first : first + BATCH])
            augment_batch(clips.clips[index], clips.ids[index], epoch, AugmentationSettings(), preprocess)
        found.append(round(private_mib(), 1))
        print(f"epoch {epoch + 1} of {EPOCHS}: {found[-1]} MiB", flush=True)
    return {"mib": found, "grew": round(found[-1] - found[1], 1)}


# ------------------------------------------------------------------------------------------ command and page
def list_videos(root: Path | None, clips: int, folder: Path) -> ClipListing:
    """List videos of a folder as training clips; without a folder, of a set generated at 112x112 pixels."""
    from skd_bench.listing.folder_walk import LeftOut, find_clips
    from skd_edge.data.sources.listing import ClipEntry, ClipListing
    from skd_edge.data.sources.synthetic import generate_dataset
    from skd_edge.recipe.data import GeneratedData

    if root is None:
        root = folder / "generated"
        generate_dataset(root, GeneratedData(kind="generated", train=clips, val=10, test=10, frames=40, size=112), 0)
    videos = [clip.path for clip in find_clips(root, LeftOut())]
    videos = videos[:: max(len(videos) // clips, 1)][:clips]  # spread over the whole folder, not only its first class
    return ClipListing(("a",), tuple(ClipEntry(p, f"{i}", "a", "train", f"{i}") for i, p in enumerate(videos)), "")


def main() -> None:
    """Measure, and write the results and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="a folder of videos; default: a generated set")
    parser.add_argument("--clips", type=int, default=CLIPS, help="the largest number of clips to use")
    options = parser.parse_args()
    from skd_bench.device.info import read_device_info
    from skd_bench.files import write_atomic, write_json
    from skd_bench.video.types import Preprocessing, Sampling
    from skd_edge.data.store.builder import Decoding
    from skd_edge.data.store.clip_store import ensure_store, make_clip_split

    sampling, preprocess = Sampling(8), Preprocessing(112, 112, "stretch", (0.45,) * 3, (0.225,) * 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed = list_videos(options.root, options.clips, folder)
        found: dict[str, Any] = {"device": read_device_info(), "cores": CORES, "load": os.getloadavg()[0]}
        found |= {"clips": len(listed.entries), "videos": str(options.root.name if options.root else "generated")}
        found["scan"] = compare_scan(listed, sampling, preprocess, folder / "cache")
        store, store_info = ensure_store(listed, Decoding(sampling, preprocess), folder / "cache")
        pixels = np.load(store / "clips.npy", mmap_mode="r")
        clips = make_clip_split("train", list(listed.entries), pixels, store_info["hash"], ("a",))
        found["epoch"] = compare_epoch(clips, [e.path for e in listed.entries], sampling, preprocess)
        found["memory"] = measure_memory(clips, preprocess)
        found["torchcodec"] = compare_decoders([e.path for e in listed.entries[::2]], sampling, preprocess)
        found["step"] = measure_batch_share(folder / "cache")
    write_json(RESULTS, found)
    write_atomic(PAGE, page(found))
    print(page(found))


def page(found: dict[str, Any]) -> str:
    """Format docs/data_speed.md; every number comes from the results."""
    scan, epoch, step, grew = found["scan"], found["epoch"], found["step"], found["memory"]
    store_seconds, bare_seconds = scan["core_seconds"]
    rows = (
        (
            "speed of scan + store as a share of a bare PyAV loop's",
            ">= 85 %",
            _format_range(scan["ratio"], scan["range"], 100, " %"),
        ),
        (
            "the same in core-seconds, independent of the machine's load",
            ">= 85 %",
            f"{100 * bare_seconds / store_seconds:.3g} %",
        ),
        (
            "an epoch from the store: how many times as fast as decoding it",
            ">= 20",
            _format_range(epoch["ratio"], epoch["range"], 1),
        ),
        (
            "share of a training step spent on preparing its batch",
            "<= 5 %",
            _format_range(step["share"], step["range"], 100, " %"),
        ),
        ("growth of private memory from the second to the tenth epoch", "none", f"{grew['grew']:+.1f} MiB"),
    )
    if other := found["torchcodec"]:
        measured = (
            f"{_format_range(other['ratio'], other['range'], 1)} (it uses PyAV's FFmpeg and gives the same frames)"
        )
        rows += (("torchcodec: how many times as fast as PyAV", "none", measured),)
    return f"""\
# How fast clips are loaded

Written by `python -m bench.suites.training.data_loading`; do not edit by hand.
{found["clips"]} videos ({found["videos"]}),
8 frames of 112x112 each, {found["cores"]} cores, load {found["load"]:.1f} at the start. Both sides of each ratio were
measured alternately; the range over the rounds is in brackets.

| what | goal | measured |
|---|---|---|
{chr(10).join(f"| {title} | {goal} | {measured} |" for title, goal, measured in rows)}

The bare loop decodes every frame with PyAV on the same cores, selects eight and resizes them with the same scaler; it
does not check or store anything. The training step is the quickstart's, of {step["step"]}: preparing the batch takes
{step["milliseconds"][0]:.1f} of {step["milliseconds"][1]:.1f} ms.
"""


def _format_range(middle: float, ends: list[float], scale: int, unit: str = "") -> str:
    return f"{scale * middle:.3g}{unit} ({scale * ends[0]:.3g} to {scale * ends[1]:.3g})"


if __name__ == "__main__":
    main()
