"""``skd-edge plan``: the jobs of a run, which of them are cached, and the estimated time and disk space."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from skd_bench.benchmark.latency import ENERGY_S
from skd_bench.device.info import read_cpu_name
from skd_bench.runtimes import uses_gpu
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.registry import is_rendered, list_recipe_clips
from skd_edge.data.sources.synthetic import generated_classes
from skd_edge.data.store.clip_store import is_store_built
from skd_edge.data.store.copies import describe_copies
from skd_edge.distill.step_profiler import StepTimes
from skd_edge.execution.job_graph import DatasetFingerprint, TrainingJob, build_recipe_job_graph, fingerprint_of
from skd_edge.execution.threads import configure_threads, count_parallel_jobs
from skd_edge.labels.dataset import TrainingData, load_training_data
from skd_edge.models.external.factory import allow_recipe_code
from skd_edge.models.tsm import count_parameters
from skd_edge.recipe.data import GeneratedData
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import open_cache, refuse_special_files
from skd_edge.schedule.candidates import list_candidates, list_deployments
from skd_edge.schedule.job_seconds import build_for_timing, estimate_job_seconds, is_logits_file, time_jobs, timing_key
from skd_edge.schedule.recorded_paces import PaceModel, read_recorded_paces
from skd_edge.schedule.search_space import build_network_grid, resolve_auto, shortlist_networks

# Costs in seconds, from the journals of quickstart runs on two cores: decode a clip, render a clip, trace a network for
# ONNX (two are traced at a time), write a file.
_DECODE_S, _RENDER_S, _TRACE_S, _FILE_S = 0.002, 0.003, 3.0, 0.3
# A student is shown as over the budget where PyTorch is slower than the budget by more than this factor: the ratio of
# two networks in PyTorch is only roughly that of their exported files.
_BUDGET_SLACK = 1.5
_QUERY_MS = 1.0  # assumed latency of one query of an exported file
_COMPILE_S = 10.0  # assumed time to compile a file into an engine and to run it once


@dataclass(frozen=True)
class PlannedJob:
    """One job of a plan.

    Attributes:
        hash: the job's hash; None where the clips are not decoded yet, because the hash depends on them.
        name: path of networks from the teacher to the trained one.
        role: ``teacher``, ``student``, ``assistant``, or a kind of control.
        cached: the job is finished already, in this run or in the cache.
        seconds: estimated time to train it.
        megabytes: size of the network's weights.
        pruned: the network looks slower than the budget, so that the run probably drops it.
        requires: places in the plan of the jobs that this one waits for.
    """

    hash: str | None
    name: str
    role: str
    cached: bool
    seconds: float
    megabytes: float
    pruned: bool = False
    requires: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The jobs of a run and what they cost on this machine.

    Attributes:
        recipe: name of the recipe.
        clips: number of clips in all splits.
        is_decoded: whether the clips are decoded already.
        jobs: in the order of training.
        data_seconds: estimated time to render and decode the clips.
        measurement_seconds: estimated time to export and measure the files.
        megabytes: estimated disk space.
        uses_successive_halving: whether the run trains only a part of the jobs.
        share: upper limit of successive halving, as a share of the seconds of all jobs; 0 for no limit.
        copies: sentences about clips that are copies of clips in another split; empty if the clips are not decoded.
        parallel_jobs: number of jobs that are trained at the same time.
        assumed_paces: the estimate is based on another device, because this one has trained nothing yet.
    """

    recipe: str
    clips: int
    is_decoded: bool
    jobs: tuple[PlannedJob, ...]
    data_seconds: float
    measurement_seconds: float
    megabytes: float
    uses_successive_halving: bool = False
    share: float = 0.0
    copies: tuple[str, ...] = ()
    parallel_jobs: int = 1
    assumed_paces: bool = False

    @property
    def training_seconds(self) -> float:
        """Seconds of training that are left; with successive halving at most ``share`` of the seconds of all jobs."""
        remaining = self._compute_makespan([0.0 if job.cached or job.pruned else job.seconds for job in self.jobs])
        return min(remaining, self.uncached_seconds) if self._is_limited else remaining

    @property
    def uncached_seconds(self) -> float:
        """Seconds of training if nothing was cached."""
        everything = self._compute_makespan([0.0 if job.pruned else job.seconds for job in self.jobs])
        return self.share * everything if self._is_limited else everything

    @property
    def _is_limited(self) -> bool:
        return self.uses_successive_halving and self.share > 0

    def _compute_makespan(self, job_seconds: list[float]) -> float:
        """Seconds until the last job ends, where each starts as soon as its requirements and a place are free."""
        ends = list[float]()
        free_at = [0.0] * self.parallel_jobs
        for job, seconds in zip(self.jobs, job_seconds, strict=True):
            place = free_at.index(min(free_at))
            began = max([free_at[place] if seconds else 0.0, *(ends[i] for i in job.requires)])
            ends.append(began + seconds)
            if seconds:
                free_at[place] = ends[-1]
        return max(ends, default=0.0)

    @property
    def seconds(self) -> float:
        """Seconds that are left for the whole run."""
        return self.data_seconds + self.measurement_seconds + self.training_seconds

    def to_text(self, hourly: float | None = None) -> str:
        """The plan as text for a terminal.

        Args:
            hourly: price of an hour of this machine, in any currency; the costs of the jobs are shown then.
        """

        def format_cost(seconds: float) -> str:
            return "" if hourly is None else f"{hourly * seconds / 3600:>10.3f}"

        lines = [
            f"{self.recipe}: {self.clips} clips, {len(self.jobs)} jobs ({sum(job.cached for job in self.jobs)} cached)",
            "",
        ]
        for job in self.jobs:
            state = "cached" if job.cached else "over budget?" if job.pruned else f"~{job.seconds:.0f} s"
            costs = "" if job.cached or job.pruned else format_cost(job.seconds)
            lines.append(
                f"  {job.hash or 'not named yet':<18} {job.role:<10} {job.name:<40} {state:>12}"
                f" {job.megabytes:>7.2f} MB{costs}"
            )
        if not self.is_decoded:
            lines += ["", "  The clips are not decoded yet, so jobs have no names and nothing counts as cached."]
        lines += ["", *(f"  warning: {sentence}" for sentence in self.copies)] if self.copies else []
        if self.uses_successive_halving:
            share = f"at most {self.share:.0%} of their seconds (schedule.share)"
            most = share if self.share else "the estimate counts all of them"
            lines += ["", f"  Successive halving trains a part of these jobs, and short ones (rungs): {most}."]
        if self.assumed_paces:
            lines += ["", "  No job was trained on this device yet: the seconds are those of an AMD EPYC."]
        lines += [
            "",
            "  'over budget?': slower than the budget in PyTorch; the run decides by the latency of the exported file.",
            f"  estimated: {self.data_seconds:.0f} s data, {self.measurement_seconds:.0f} s export and measurement, "
            f"{self.seconds / 60:.1f} min in all; about {self.megabytes:.0f} MB of disk",
        ]
        if hourly is not None:
            lines.append(f"  cost:{format_cost(self.seconds)} at {hourly:g} an hour")
        return "\n".join(lines)


def plan(
    recipe: Recipe,
    out: Path | None = None,
    *,
    allow_code: bool = False,
    quick: bool = False,
    most_jobs: int | None = None,
) -> Plan:
    """Plan a run without decoding, training or writing anything. Each kind of job is timed for a few steps.

    Args:
        recipe: the recipe to plan.
        out: the run folder, whose finished jobs count as cached.
        allow_code: whether the recipe's ``teacher.factory``, which is a third party's code, may run.
        quick: run nothing; estimate seconds from the jobs that this device has finished, and from the networks' MACs.
        most_jobs: number of jobs that are trained at the same time, at most; None: as many as there are cores for.

    Raises:
        UsageError: The recipe names code and ``allow_code`` is False; or the run folder contains a link, a pipe or a
            device.
        UserError: The data cannot be listed (see `list_clips`), or a network cannot be built (see `build_network`).
    """
    allow_recipe_code(recipe, allow_code)
    if out is not None and out.is_dir():
        refuse_special_files(out)  # it may be a stranger's
    configure_threads(recipe.training.threads)
    count, splits, names, training_data = _inspect_data(recipe)
    fingerprint = fingerprint_of(training_data) if training_data else None
    copies = tuple(describe_copies(training_data.clips.copies)) if training_data else ()
    paces = _read_paces(recipe, out) if quick else None
    original_recipe, recipe = recipe, _propose_networks(recipe, names, paces)
    jobs = build_recipe_job_graph(recipe, fingerprint or DatasetFingerprint("", "", len(names), names), recipe.students)
    step_times = (
        {timing_key(job): paces.estimate_step_times(job) for job in jobs} if paces else time_jobs(recipe, jobs, names)
    )
    times_by_network = {n.spec.learner.name: step_times[timing_key(n)] for n in reversed(jobs)}
    slow = _find_students_over_budget(recipe, times_by_network)
    built = {
        name: build_for_timing(recipe, spec, names)
        for name, spec in recipe.networks.items()
        if not is_logits_file(spec)
    }

    def compute_model_megabytes(job: TrainingJob) -> float:
        network = built.get(job.spec.learner.name)
        return count_parameters(network) * 4 / 1e6 if network else 0.0

    computed_outputs: set[tuple[str, int]] = set()
    planned_jobs = list[PlannedJob]()
    places: dict[str, int] = {}
    for place, job in enumerate(jobs):
        places.setdefault(job.hash, place)
        seconds = estimate_job_seconds(job, step_times, times_by_network, splits, computed_outputs)
        cached = fingerprint is not None and _is_finished(job, out)
        planned_jobs.append(
            PlannedJob(
                job.hash if fingerprint else None,
                job.spec.name,
                job.spec.role,
                cached,
                seconds,
                compute_model_megabytes(job),
                job.spec.learner.name in slow,
                tuple(places[required.hash] for required in job.required_jobs),
            )
        )
    pixels = count * recipe.clip.frames * recipe.clip.size**2 * 3
    teachers = (built[n.name] for n in (recipe.teacher, *recipe.assistants) if n.name in built)
    widths = sum(sum(network.widths) for network in teachers)
    # Teacher outputs stay in the cache, as float32.
    teacher_output_bytes = splits["train"] * recipe.augment.views * recipe.clip.frames * 4 * widths
    megabytes = (pixels + teacher_output_bytes) / 1e6 + sum(planned_job.megabytes for planned_job in planned_jobs)
    measurement_seconds = _estimate_measurement_seconds(recipe)
    if "students" in original_recipe.auto:
        measurement_seconds += _estimate_grid_seconds(original_recipe)
    return Plan(
        recipe.name,
        count,
        fingerprint is not None,
        tuple(planned_jobs),
        _estimate_data_seconds(recipe, count, fingerprint),
        measurement_seconds,
        megabytes,
        recipe.uses_successive_halving,
        recipe.schedule.share,
        copies,
        most_jobs or count_parallel_jobs(recipe.training.threads),
        paces is not None and not paces.is_recorded,
    )


def _read_paces(recipe: Recipe, out: Path | None) -> PaceModel:
    folders = [open_cache() / "jobs", *([out / "jobs"] if out else [])]
    return PaceModel(read_recorded_paces(folders, read_cpu_name(), recipe.training.threads))


def _propose_networks(recipe: Recipe, names: tuple[str, ...], paces: PaceModel | None) -> Recipe:
    """The recipe with proposed networks where it says ``auto``; selected by latency in PyTorch, not on the device.

    With ``paces``, latency is not measured, but estimated.
    """
    students = recipe.students
    if "students" in recipe.auto:
        student_networks = {n.name: n for n in build_network_grid(recipe)}
        others = {} if is_logits_file(recipe.teacher) else {recipe.teacher.name: recipe.teacher}
        x = torch.zeros(1, 3, recipe.clip.frames, recipe.clip.size, recipe.clip.size)
        with torch.no_grad():
            times = {
                name: 1e3
                * (
                    paces.estimate_seconds_per_clip(n, recipe.clip)
                    if paces
                    else _measure_fastest(partial(build_for_timing(recipe, n, names).eval(), x), 3)
                )
                for name, n in {**student_networks, **others}.items()
            }
        limit = (
            recipe.choice.budget_ms(times.pop(recipe.teacher.name, 0.0)) if recipe.choice.has_relative_budget else None
        )
        students = (
            tuple(shortlist_networks(student_networks, times, limit, recipe.space.keep))
            or tuple(student_networks.values())[:1]
        )
    return resolve_auto(recipe, students)


def _estimate_measurement_seconds(recipe: Recipe) -> float:
    """Seconds to trace each network once, and to write and measure its files twice: with random weights and trained."""
    files = (len(recipe.students) + len(recipe.students) * len(recipe.cascade_paths)) * len(
        recipe.export.precisions
    ) + 2
    measured = (len(recipe.students) * len(list_deployments(recipe)) + 1) + (len(list_candidates(recipe)) + 1)
    return _TRACE_S * (len(recipe.students) + 1) + files * _FILE_S + measured * _estimate_seconds_per_file(recipe)


def _estimate_grid_seconds(recipe: Recipe) -> float:
    each = len(recipe.export.precisions) * _FILE_S + len(list_deployments(recipe)) * _estimate_seconds_per_file(recipe)
    return len(build_network_grid(recipe)) * (_TRACE_S + each)


def _estimate_seconds_per_file(recipe: Recipe) -> float:
    """Seconds to measure one file on one runtime, on average over the runtimes; on a GPU also to compile it."""
    bench = recipe.bench
    queries = bench.processes * bench.queries * _QUERY_MS / 1e3
    if on_gpu := [r for r in bench.runtime if uses_gpu(r)]:
        each = max(queries, bench.processes * (bench.seconds + bench.warm_seconds)) + _COMPILE_S
        queries = (len(on_gpu) * each + (len(bench.runtime) - len(on_gpu)) * queries) / len(bench.runtime)
    return queries + (ENERGY_S if recipe.choice.max_joules else 0.0)


def _find_students_over_budget(recipe: Recipe, times_by_network: dict[str, StepTimes]) -> set[str]:
    """Students that look too slow. Latency in PyTorch is only comparable with that of the teacher in PyTorch."""
    if not recipe.choice.has_relative_budget:
        return set()
    limit = recipe.choice.budget_ms(times_by_network[recipe.teacher.name].seconds_per_clip) or 0.0
    return {s.name for s in recipe.students if times_by_network[s.name].seconds_per_clip > limit * _BUDGET_SLACK}


def _inspect_data(recipe: Recipe) -> tuple[int, dict[str, int], tuple[str, ...], TrainingData | None]:
    """Number of clips, the same by split, class names, and the data itself; None where clips are not decoded."""
    cache = open_cache()
    if isinstance(recipe.data, GeneratedData) and not is_rendered(recipe.data, recipe.seed, cache):
        data = recipe.data
        splits = {"train": data.train, "val": data.val, "test": data.test}
        return sum(splits.values()), splits, generated_classes(data), None
    listing = list_recipe_clips(recipe, cache)
    splits = {split: sum(e.split == split for e in listing.entries) for split in ("train", "val", "test")}
    if not is_store_built(listing, *inference_preprocessing(recipe.clip), cache, recipe.clip.decoder):
        return len(listing.entries), splits, listing.classes, None
    return len(listing.entries), splits, listing.classes, load_training_data(recipe, cache)


def _estimate_data_seconds(recipe: Recipe, count: int, fingerprint: DatasetFingerprint | None) -> float:
    if fingerprint is not None:
        return 0.0
    return count * (_DECODE_S + (_RENDER_S if isinstance(recipe.data, GeneratedData) else 0.0)) + 4.0


def _is_finished(job: TrainingJob, out: Path | None) -> bool:
    homes = [open_cache() / "jobs", *([out / "jobs"] if out else [])]
    return any((home / job.hash / "job.json").exists() for home in homes)


def _measure_fastest(work: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of ``times`` calls, after a warm-up call."""
    work()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)
