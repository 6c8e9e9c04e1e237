"""What happens on the target: files are compiled, the runnable ones are measured, and their logits are computed.

The same functions run here, over ssh and from a pack. Each file is compiled and scored in a process of its own, before
and after the measurement: a file that cannot run is left out with its reason, and the others go on.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.benchmark.engines.prepare_worker import PrepareJob
from skd_bench.benchmark.engines.score_worker import ScoreJob
from skd_bench.benchmark.fresh_process import run_worker
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.benchmark.measurements import EncodedLogits, FileNote
from skd_bench.device.info import DeviceInfo, device_id
from skd_bench.errors import EXIT_PAUSED, UserError
from skd_bench.files import sha256_file, write_json
from skd_bench.runtimes import registered_runtimes, uses_gpu, why_runtime_unavailable
from skd_bench.runtimes.base import CompileOptions, CompilingRuntime
from skd_bench.video.types import Preprocessing

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class ScoringClips:
    """Clips that a device computes logits for.

    Attributes:
        key: Identifies the clips.
        file: A ``.npy`` file, uint8 ``(N, T, H, W, 3)``.
        preprocess: How they become a network's input.
    """

    key: str
    file: Path
    preprocess: Preprocessing


@dataclass(frozen=True)
class PreparedTargets:
    """Targets that can be measured on this device, and those that cannot.

    Attributes:
        ready: By name, in the order of the targets; the path is that of the engine where the runtime compiles.
        refused: Why a target cannot run here, by name.
        facts: What the session of a GPU target reported after one query (`InferenceSession.runtime_info`), by name.
        built: Names of the targets that were compiled now, and not by an earlier run.
    """

    ready: Mapping[str, LatencyTarget]
    refused: Mapping[str, str]
    facts: Mapping[str, dict[str, Any]]
    built: tuple[str, ...] = field(default=())

    def without(self, failed: Mapping[str, str]) -> PreparedTargets:
        """The same without targets that failed while they were measured; `failed` has the reasons by name."""
        ready = {name: target for name, target in self.ready.items() if name not in failed}
        return replace(self, ready=ready, refused={**self.refused, **failed})


def find_engine_folder(root: Path, device_info: DeviceInfo, gpu: str | None) -> Path:
    """The folder of the engines of one GPU: two GPUs of one kind choose their kernels by their own timings.

    Args:
        root: The folder of all engines.
        device_info: That of this machine.
        gpu: The GPU that was requested (`MeasurementSettings.gpu`).
    """
    suffix = "" if gpu is None else "-" + re.sub(r"[^\w.-]", "_", gpu)
    return root / f"{device_id(device_info)}{suffix}"


def prepare_targets(
    targets: Sequence[LatencyTarget],
    folder: Path,
    options: CompileOptions,
    settings: MeasurementSettings,
    progress: ProgressCallback | None = None,
) -> PreparedTargets:
    """Compile what must be compiled, and run every GPU target once. Targets on the CPU are returned as they are.

    Only where OpenVINO has no bfloat16 arithmetic are its files tried, since one of them may need it.

    Args:
        targets: Files and their runtimes; a runtime may be one that compiles.
        folder: That of `find_engine_folder`; engines that are there already are used again where they still fit.
        options: How to compile.
        settings: Threads, GPU and builds; where there are several builds, also how long each is measured.
        progress: Called with (targets finished, all targets).

    Raises:
        UserError: The disk is full (exit code 75).
    """
    ready: dict[str, LatencyTarget] = {}
    refused: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {}
    built = []
    for number, target in enumerate(targets):
        if progress:
            progress(number, len(targets))
        if not uses_gpu(target.runtime):
            if (reason := _why_cpu_refuses(target, folder, options, settings)) is None:
                ready[target.name] = target
            else:
                refused[target.name] = reason
            continue
        note = _note_path(target, folder, options)
        earlier = _read_note(note, Path(target.path))
        try:  # also where there is an engine: only the runtime knows whether it fits the library and the GPU of today
            prepared = _prepare_builds(target, folder, options, settings, earlier)
        except UserError as error:
            if error.exit_code == EXIT_PAUSED:  # a full disk says nothing about the file
                raise
            refused[target.name] = str(error)
            write_json(note, {"refused": str(error)})
            continue
        if earlier is None or earlier["sha256"] != prepared["sha256"]:
            built.append(target.name)
        write_json(note, {**prepared, "path": Path(prepared["path"]).name})
        ready[target.name] = replace(target, path=prepared["path"])
        facts[target.name] = prepared["facts"]
    return PreparedTargets(ready, refused, facts, tuple(built))


def read_prepared_targets(
    targets: Sequence[LatencyTarget], folder: Path, options: CompileOptions
) -> PreparedTargets | None:
    """What `prepare_targets` found for these targets before; None where a target was never prepared. Nothing is run."""
    ready: dict[str, LatencyTarget] = {}
    refused: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {}
    for target in targets:
        note = _note_path(target, folder, options)
        if not uses_gpu(target.runtime):
            ready[target.name] = target
        elif (stored := _read_note(note, Path(target.path))) is not None:
            ready[target.name] = replace(target, path=stored["path"])
            facts[target.name] = stored["facts"]
        elif (reason := _read_refusal(note)) is not None:
            refused[target.name] = reason
        else:
            return None
    return PreparedTargets(ready, refused, facts)


def compute_target_logits(
    target: LatencyTarget, clips: Path, preprocess: Preprocessing, settings: MeasurementSettings
) -> npt.NDArray[np.float32]:
    """A prepared target's logits ``(N, C)``, computed in a process of its own.

    Args:
        target: One of `PreparedTargets.ready`.
        clips: A ``.npy`` file, uint8 ``(N, T, H, W, 3)``.
        preprocess: How clips become the network's input.
        settings: Threads and GPU.

    Raises:
        UserError: The runtime cannot run the file, or a logit is not finite.
    """
    with tempfile.TemporaryDirectory(prefix="skd-score-") as folder:
        logits = Path(folder) / "logits.npy"
        job: ScoreJob = {
            "path": str(Path(target.path).absolute()),
            "runtime": target.runtime,
            "threads": settings.threads,
            "clips": str(clips.absolute()),
            "preprocess": asdict(preprocess),
            "logits": str(logits),
        }
        run_worker("skd_bench.benchmark.engines.score_worker", job, gpu=settings.gpu)
        scored: npt.NDArray[np.float32] = np.load(logits, allow_pickle=False)
        return scored


def describe_files(
    targets: Sequence[LatencyTarget],
    prepared: PreparedTargets,
    settings: MeasurementSettings,
    clips: ScoringClips | None = None,
) -> list[FileNote]:
    """A note for each target on a GPU, and for refused ones; with clips, the logits of those on a GPU that can run."""
    notes = []
    for target in targets:
        if not uses_gpu(target.runtime) and target.name not in prepared.refused:
            continue
        name, logits, refused = target.name, None, prepared.refused.get(target.name)
        if clips is not None and refused is None:
            try:
                scored = compute_target_logits(prepared.ready[name], clips.file, clips.preprocess, settings)
                logits = EncodedLogits.encode(clips.key, scored)
            except UserError as error:
                refused = str(error)
        facts = prepared.facts.get(name, {})
        is_new = name in prepared.built
        notes.append(FileNote(sha256_file(target.path), target.runtime, refused, facts, logits, is_new))
    return notes


def _why_cpu_refuses(
    target: LatencyTarget, folder: Path, options: CompileOptions, settings: MeasurementSettings
) -> str | None:
    if target.runtime != "openvino" or why_runtime_unavailable("openvino", "bf16") is None:
        return None
    try:
        _run_prepare_worker(target, folder, options, settings)
    except UserError as error:
        return str(error)
    return None


def _prepare_builds(
    target: LatencyTarget,
    folder: Path,
    options: CompileOptions,
    settings: MeasurementSettings,
    earlier: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Compile a target `MeasurementSettings.builds` times and prepare the engine of median latency.

    Each build has a folder, and a timing cache, of its own: with a common one, all would choose the same kernels.

    Returns:
        The content of the target's note; its ``facts`` have the builds, where there are several.

    Raises:
        UserError: A build fails, or its engine cannot run.
    """
    compiles = isinstance(registered_runtimes().get(target.runtime), CompilingRuntime)
    numbers = range(settings.builds if compiles else 1)
    made = [_run_prepare_worker(target, _build_folder(folder, number), options, settings) for number in numbers]
    hashes = [sha256_file(one["path"]) for one in made]
    if len(made) == 1:
        return {**made[0], "build": 0, "sha256": hashes[0]}
    builds = earlier["facts"].get("builds", []) if earlier else []
    if [row["engine_sha256"] for row in builds] != hashes:
        targets = [
            replace(target, name=f"build {number}", path=one["path"]) for number, one in zip(numbers, made, strict=True)
        ]
        found = measure_latency(targets, replace(settings, processes=1, energy=False), memory=False)
        medians = [float(np.median(one.samples_ms[0])) for one in found.values()]
        builds = [{"engine_sha256": sha, "p50_ms": ms} for sha, ms in zip(hashes, medians, strict=True)]
    by_latency = sorted(numbers, key=lambda number: builds[number]["p50_ms"])
    chosen = by_latency[(len(by_latency) - 1) // 2]
    facts = {**made[chosen]["facts"], "builds": builds}
    return {**made[chosen], "build": chosen, "sha256": hashes[chosen], "facts": facts}


def _build_folder(folder: Path, number: int) -> Path:
    return folder if number == 0 else folder / f"build-{number + 1}"


def _run_prepare_worker(
    target: LatencyTarget, folder: Path, options: CompileOptions, settings: MeasurementSettings
) -> Mapping[str, Any]:
    job: PrepareJob = {
        "path": str(Path(target.path).absolute()),
        "runtime": target.runtime,
        "threads": settings.threads,
        "folder": str(folder.absolute()),
        "workspace_mib": options.workspace_mib,
        "level": options.level,
        "tf32": options.tf32,
    }
    return run_worker("skd_bench.benchmark.engines.prepare_worker", job, gpu=settings.gpu)


def _note_path(target: LatencyTarget, folder: Path, options: CompileOptions) -> Path:
    return folder / f"{sha256_file(target.path)[:16]}.{target.runtime}.{options.key}.json"


def _read_refusal(note: Path) -> str | None:
    try:
        return str(json.loads(note.read_text("utf-8"))["refused"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_note(note: Path, source: Path) -> dict[str, Any] | None:
    """The note of an earlier preparation; None where there is none, or its engine is missing or was changed."""
    try:
        stored: dict[str, Any] = json.loads(note.read_text("utf-8"))
        is_engine = Path(stored["path"]).suffix == ".engine"  # else the file is loaded as it is
        folder = _build_folder(note.parent, int(stored.get("build", 0)))
        stored["path"] = str(folder / Path(stored["path"]).name if is_engine else source)
        return stored if sha256_file(stored["path"]) == stored["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
