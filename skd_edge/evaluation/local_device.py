"""This machine as the device that candidates are measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark import latency
from skd_bench.benchmark.engines.device_job import (
    PreparedTargets,
    ScoringClips,
    compute_target_logits,
    find_engine_folder,
    prepare_targets,
    read_prepared_targets,
)
from skd_bench.benchmark.latency import LatencyResult, LatencyTarget, MeasurementSettings
from skd_bench.benchmark.measurements import FileNote, check_same_device
from skd_bench.device.info import DeviceInfo, device_id, read_device_info
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.runtimes import uses_gpu
from skd_bench.runtimes.base import CompileOptions
from skd_bench.untrusted.text import escape_name
from skd_edge.evaluation.measurement_cache import MeasuredSession, MeasurementCache
from skd_edge.recipe.sections import BenchmarkSettings

Progress = Callable[[int, int], None]
Latencies = dict[str, LatencyResult]
DeviceFile = tuple[Path, str]  # and its runtime


@dataclass(frozen=True)
class MeasuredTargets:
    """What a device measured.

    Attributes:
        latency: By the target's name; targets that cannot run are missing.
        refused: Why a target cannot run on the device, by name.
        built: Names of the targets whose engine was compiled for this session.
    """

    latency: Latencies
    refused: Mapping[str, str] = field(default_factory=dict)
    built: tuple[str, ...] = ()


class Device:
    """This machine.

    Attributes:
        name: The device's name in messages.
        is_local: Whether it is the machine that this process runs on.

    Args:
        bench: The recipe's section ``bench``.
        cache_folder: Folder of the stored sessions (see `MeasurementCache`); None: everything is measured again.
        energy: Whether energy is measured as well.
        cache_only: Whether only stored sessions may be used; nothing is measured then.
    """

    name, is_local = "this machine", True

    def __init__(
        self,
        bench: BenchmarkSettings,
        cache_folder: Path | None = None,
        *,
        energy: bool = False,
        cache_only: bool = False,
    ) -> None:
        self.bench, self.energy, self.cache_only = bench, energy, cache_only
        self.measurement_cache = (
            MeasurementCache(cache_folder, self._benchmark_settings, self.compile_options) if cache_folder else None
        )
        self._device_info: DeviceInfo | None = None
        self._engines_root = cache_folder.parents[1] / "engines" if cache_folder else None
        self._prepared: dict[tuple[Path, str], LatencyTarget] = {}
        self._facts: dict[tuple[Path, str], dict[str, Any]] = {}
        self._logits: dict[tuple[Path, str, str], NDArray[np.float32]] = {}

    def measure(
        self,
        targets: Sequence[LatencyTarget],
        progress: Progress | None = None,
        clips: Callable[[], ScoringClips] | None = None,
    ) -> MeasuredTargets:
        """Compile what must be compiled, leave out what cannot run, and measure the rest in one session.

        Args:
            targets: ONNX files, and the runtime of each; where the runtime compiles, the engine is measured.
            progress: Called with the numbers of finished and of all steps.
            clips: Makes clips that `compute_logits` will need; a device that is elsewhere gets them at once.

        Raises:
            UserError: The targets cannot be measured, or the device is not the one of the earlier measurements; or the
                run holds no engine or measurement of a target, and nothing may be built or measured.
        """
        prepared = self._prepare(targets, progress, may_compile=not self.cache_only)
        by_name = {t.name: (Path(t.path), t.runtime) for t in targets}
        self._prepared |= {by_name[name]: target for name, target in prepared.ready.items()}
        self._facts |= {by_name[name]: facts for name, facts in prepared.facts.items()}
        ready = list(prepared.ready.values())
        on_gpu = any(uses_gpu(t.runtime) for t in ready)
        session = self._find_or_measure(ready, progress, clips() if clips and on_gpu and not self.is_local else None)
        refused = self._read_notes(ready, session.notes)  # also those that were measured, and then not scored
        latencies = {name: one for name, one in session.latency.items() if name not in refused}
        new = {(note.sha256, note.runtime) for note in session.notes if note.built}
        built = [t.name for t in ready if new and (sha256_file(t.path), t.runtime) in new and t.name not in refused]
        return MeasuredTargets(latencies, {**prepared.refused, **refused}, (*prepared.built, *built))

    def _read_notes(self, targets: Sequence[LatencyTarget], notes: Sequence[FileNote]) -> dict[str, str]:
        """Remember what a device elsewhere found out about files; returns why targets cannot run there, by name."""
        by_file = {(note.sha256, note.runtime): note for note in notes}
        refused = {}
        for target in targets:
            note = by_file.get((sha256_file(target.path), target.runtime)) if by_file else None
            if note is None:
                continue
            key = Path(target.path), target.runtime.removesuffix("-nograph")
            self._facts[key] = note.facts
            if note.logits is not None:
                self._logits[*key, note.logits.clips] = note.logits.decode()
            if note.refused is not None:
                refused[target.name] = escape_name(note.refused)
        return refused

    def find_facts(self, path: Path, runtime: str) -> dict[str, Any]:
        """What the GPU session of a measured file reported: versions, GPU, engine, layers; empty on a CPU."""
        return self._facts.get((path, runtime), {})

    def prepare_file(self, path: Path, runtime: str) -> dict[str, Any]:
        """Compile one file where `measure` did not, and return its facts (see `find_facts`).

        Raises:
            UserError: The device cannot compile or run the file.
        """
        if (path, runtime) not in self._prepared:
            prepared = self._prepare([LatencyTarget(path.name, path, runtime)], None, may_compile=True)
            if reason := prepared.refused.get(path.name):
                raise UserError(f"{path} cannot run on {self.name}: {reason}")
            self._prepared[path, runtime] = prepared.ready[path.name]
            self._facts[path, runtime] = prepared.facts.get(path.name, {})
        return self.find_facts(path, runtime)

    def compute_logits(self, path: Path, runtime: str, clips: ScoringClips) -> NDArray[np.float32]:
        """A file's logits ``(N, C)`` as the device answers.

        Raises:
            UserError: The device cannot run the file, or a logit is not finite.
        """
        self.prepare_file(path, runtime)
        target = self._prepared[path, runtime]
        return compute_target_logits(target, clips.file, clips.preprocess, self._benchmark_settings)

    def score_files(self, files: Sequence[DeviceFile], clips: ScoringClips) -> dict[DeviceFile, str]:
        """Let a device that is elsewhere score several files at once, so that clips travel once. Nothing is done here.

        Returns:
            Why files cannot be scored.

        Raises:
            UserError: The device cannot be reached, or waits for a person.
        """
        return {}

    def _prepare(
        self, targets: Sequence[LatencyTarget], progress: Progress | None, *, may_compile: bool
    ) -> PreparedTargets:
        targets = [self._choose_launch(target) for target in targets]
        if not any(uses_gpu(t.runtime) for t in targets):
            return PreparedTargets({t.name: t for t in targets}, {}, {})
        assert self._engines_root is not None, "a device of GPU files needs a run folder"
        folder = find_engine_folder(self._engines_root, read_device_info(), self.bench.device)
        if may_compile:
            return prepare_targets(targets, folder, self.compile_options, self._benchmark_settings, progress)
        prepared = read_prepared_targets(targets, folder, self.compile_options)
        if prepared is None:
            raise UserError(
                f"the run holds no engines of these files for {self.name} as it is now; repeat the skd-edge compress "
                "command (finished jobs are not trained again), then choose"
            )
        return prepared

    def _choose_launch(self, target: LatencyTarget) -> LatencyTarget:
        """The target with the name of the runtime that launches as ``bench.build.graphs`` says."""
        without_graphs = target.runtime.startswith("tensorrt") and not self.bench.build.graphs
        return replace(target, runtime=f"{target.runtime}-nograph") if without_graphs else target

    @property
    def compile_options(self) -> CompileOptions:
        """How engines are compiled: the recipe's ``bench.build``."""
        build = self.bench.build
        return CompileOptions(build.workspace, build.level, build.tf32)

    @property
    def engine_key(self) -> str:
        """Equal where the engines of a file are built alike for the same GPU."""
        return f"{device_id(self.device_info)}:{self.bench.device}:{self.compile_options.key}"

    @property
    def device_info(self) -> DeviceInfo:
        """The device info (see `skd_bench.device.info`); that of this machine as long as nothing was measured."""
        return self._device_info or read_device_info()

    @property
    def int8_saturates(self) -> bool:
        """Whether 8-bit weights saturate on the device: x86 without VNNI. False as long as nothing was measured."""
        info = self._device_info
        if info is None:
            return False
        x86 = str(info.get("machine", "")).lower() in {"x86_64", "amd64", "i386", "i686"}
        return x86 and not {"avx_vnni", "avx512_vnni"} & set(info.get("isa", ()))

    def _find_or_measure(
        self,
        targets: Sequence[LatencyTarget],
        progress: Progress | None = None,
        clips: ScoringClips | None = None,
    ) -> MeasuredSession:
        cached = (
            self.measurement_cache.find_session(
                targets, device_id(read_device_info()) if self.is_local else None, refusals=self.cache_only
            )
            if self.measurement_cache
            else None
        )
        if cached is None and self.cache_only:
            what = "joules" if self.energy else "measurement"
            raise UserError(
                f"the run holds no {what} of all {len(targets)} files in one session on {self.name}; repeat the "
                "skd-edge compress command (finished jobs are not trained again), then choose"
            )
        session = cached or self._measure_uncached(targets, progress, clips)
        if self.measurement_cache and cached is None:
            self.measurement_cache.save_session(targets, session)
        check_same_device(self._device_info or session.info, session.info, "these files were measured")
        self._device_info = self._device_info or session.info
        return session

    def _measure_uncached(
        self, targets: Sequence[LatencyTarget], progress: Progress | None, clips: ScoringClips | None
    ) -> MeasuredSession:
        info = read_device_info()
        # Peak memory needs a process for each target, and the report of a run does not show it (`skd-edge bench` does).
        measure = partial(latency.measure_latency, settings=self._benchmark_settings, memory=False, progress=progress)
        found, failed = latency.measure_runnable(targets, measure)
        notes = [FileNote(sha256_file(t.path), t.runtime, failed[t.name]) for t in targets if t.name in failed]
        return MeasuredSession(found, info, tuple(notes))

    @property
    def _benchmark_settings(self) -> MeasurementSettings:
        bench = self.bench
        return MeasurementSettings(
            bench.threads,
            bench.processes,
            bench.queries,
            self.energy,
            gpu=bench.device,
            seconds=bench.seconds,
            warm_seconds=bench.warm_seconds,
            builds=bench.build.builds,
        )
