"""What a run would do before it does it: the tree of jobs, what is cached, estimated time and disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from skd_bench.benchmark.latency import ENERGY_S
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.registry import is_rendered, list_clips
from skd_edge.data.sources.synthetic import generated_classes
from skd_edge.data.store.clip_store import is_store_built
from skd_edge.distill.step_profiler import StepTimes, measure_step_times
from skd_edge.execution.job_graph import DatasetFingerprint, TrainingJob, build_recipe_job_graph, fingerprint_of
from skd_edge.execution.threads import configure_threads
from skd_edge.labels.dataset import load_training_data
from skd_edge.models.builder import AnyNetwork, build_network
from skd_edge.models.external.factory import allow_factory_code
from skd_edge.models.tsm import count_parameters
from skd_edge.recipe.data import GeneratedData
from skd_edge.recipe.schema import NetworkSpec, Recipe, Teacher
from skd_edge.run_folder import open_cache
from skd_edge.schedule.candidates import list_candidates, list_deployments
from skd_edge.schedule.search_space import build_network_grid, resolve_auto, shortlist_networks

# Seconds, from the journals of quickstart runs on two cores: a clip to decode and to render, a network to trace for
# ONNX (two at a time), a file to write. Then how much slower than its share of the teacher a student may look in
# PyTorch before it counts as too slow, the views that an opinion is averaged over, and what a file's query takes in ms.
_DECODE_S, _RENDER_S, _TRACE_S, _FILE_S, _BUDGET_SLACK, _AVERAGED_VIEWS, _QUERY_MS = 0.002, 0.003, 3.0, 0.3, 1.5, 4, 1.0


@dataclass(frozen=True)
class PlannedJob:
    """One job: what it is, whether it is there already, seconds, bytes."""

    hash: str | None
    name: str
    role: str
    cached: bool
    seconds: float
    megabytes: float
    pruned: bool = False


@dataclass(frozen=True)
class Plan:
    """The tree of jobs with its price on this machine."""

    recipe: str
    clips: int
    is_decoded: bool
    jobs: tuple[PlannedJob, ...]
    data_seconds: float
    measurement_seconds: float
    megabytes: float
    uses_successive_halving: bool = False
    share: float = 0.0

    @property
    def training_seconds(self) -> float:
        """Seconds of training that are left to do; where the search halves, no more than its share of all jobs."""
        jobs = [job for job in self.jobs if not job.pruned]
        remaining = sum(job.seconds for job in jobs if not job.cached)
        return (
            min(remaining, self.share * sum(job.seconds for job in jobs))
            if self.uses_successive_halving and self.share
            else remaining
        )

    @property
    def seconds(self) -> float:
        """Seconds that are left to do."""
        return self.data_seconds + self.measurement_seconds + self.training_seconds

    def to_text(self, hourly: float | None = None) -> str:
        """For the screen.

        Args:
            hourly: what an hour of this machine costs, in whatever money: the costs of jobs are told too.
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
        if self.uses_successive_halving:
            share = f"at most {self.share:.0%} of their seconds (schedule.share)"
            most = share if self.share else "the time is that of all"
            lines += ["", f"  Successive halving trains a part of these, and rungs: {most}."]
        lines += [
            "",
            "  'over budget?': slower than the budget in PyTorch; the run weighs the exported file before it decides.",
            f"  estimated: {self.data_seconds:.0f} s data, {self.measurement_seconds:.0f} s export and measurement, "
            f"{self.seconds / 60:.1f} min in all; about {self.megabytes:.0f} MB of disk",
        ]
        if hourly is not None:
            lines.append(f"  cost:{format_cost(self.seconds)} at {hourly:g} an hour")
        return "\n".join(lines)


def plan(recipe: Recipe, out: Path | None = None, *, allow_code: bool = False) -> Plan:
    """Plan a run without decoding, training or writing anything; networks are probed for a few steps.

    Args:
        recipe: what would be done.
        out: the run folder, whose finished jobs count as cached.
        allow_code: whether the recipe's ``teacher.factory``, somebody's code, may run.

    Raises:
        UsageError: The recipe names code and ``allow_code`` is False.
        UserError: See ``list_clips`` and ``adapt``.
    """
    allow_factory_code(recipe.teacher, allow_code)
    configure_threads(None)
    count, splits, names, fingerprint = _inspect_data(recipe)
    original_recipe, recipe = recipe, _propose_networks(recipe, names)
    jobs = build_recipe_job_graph(recipe, fingerprint or DatasetFingerprint("", "", len(names), names), recipe.students)
    step_times = _measure_step_times(recipe, jobs, names)
    times_by_network = {n.spec.learner.name: step_times[_timing_key(n)] for n in reversed(jobs)}
    slow = _find_students_over_budget(recipe, times_by_network)
    built = {
        name: _build_network(recipe, spec, names) for name, spec in recipe.networks.items() if not _is_logits_file(spec)
    }

    def compute_model_megabytes(job: TrainingJob) -> float:
        network = built.get(job.spec.learner.name)
        return count_parameters(network) * 4 / 1e6 if network else 0.0

    computed_outputs: set[tuple[str, int]] = set()
    planned_jobs = []
    for job in jobs:
        seconds = _estimate_job_seconds(job, step_times, times_by_network, splits, computed_outputs)
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
            )
        )
    pixels = count * recipe.clip.frames * recipe.clip.size**2 * 3
    teachers = (built[n.name] for n in (recipe.teacher, *recipe.assistants) if n.name in built)
    widths = sum(sum(network.widths) for network in teachers)
    teacher_output_bytes = splits["train"] * recipe.augment.views * recipe.clip.frames * 4 * widths  # they are kept
    megabytes = (pixels + teacher_output_bytes) / 1e6 + sum(planned_job.megabytes for planned_job in planned_jobs)
    measurement_seconds = _estimate_measurement_seconds(recipe) + (
        _estimate_grid_seconds(original_recipe) if "students" in original_recipe.auto else 0.0
    )
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
    )


def _propose_networks(recipe: Recipe, names: tuple[str, ...]) -> Recipe:
    """Students and assistants where the recipe says auto, by PyTorch's milliseconds instead of the device's."""
    students = recipe.students
    if "students" in recipe.auto:
        student_networks = {n.name: n for n in build_network_grid(recipe)}
        x = torch.zeros(1, 3, recipe.clip.frames, recipe.clip.size, recipe.clip.size)
        with torch.no_grad():
            others = {} if _is_logits_file(recipe.teacher) else {recipe.teacher.name: recipe.teacher}
            times = {
                name: 1e3 * _measure_fastest(partial(_build_network(recipe, n, names).eval(), x), 3)
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


def _build_network(recipe: Recipe, spec: NetworkSpec, names: tuple[str, ...]) -> AnyNetwork:
    return build_network(spec, classes=len(names), clip=recipe.clip, seed=0, names=names)


def _is_logits_file(spec: NetworkSpec) -> bool:
    """Whether it is a file of answers and no network."""
    return isinstance(spec, Teacher) and spec.logits is not None


def _timing_key(job: TrainingJob) -> tuple[object, ...]:
    """Jobs of one kind take equally long a step."""
    spec = job.spec
    return (
        str(spec.learner.architecture),
        spec.staged,
        spec.weak,
        spec.training,
        job.teacher and str(job.teacher.spec.learner.architecture),
        bool(spec.epochs),
    )


def _measure_step_times(
    recipe: Recipe, jobs: list[TrainingJob], names: tuple[str, ...]
) -> dict[tuple[object, ...], StepTimes]:
    """A probe of each kind of job."""
    step_times: dict[tuple[object, ...], StepTimes] = {}
    for job in jobs:
        if _is_logits_file(job.spec.learner):
            step_times[_timing_key(job)] = StepTimes(0.0, 0.0)
        if _timing_key(job) not in step_times:
            teacher_spec = job.teacher.spec.learner if job.teacher else None
            teacher = (
                _build_network(recipe, teacher_spec, names)
                if teacher_spec and not _is_logits_file(teacher_spec)
                else None
            )
            step_times[_timing_key(job)] = measure_step_times(
                job.spec, teacher, inference_preprocessing(recipe.clip)[1]
            )
    return step_times


def _estimate_job_seconds(
    job: TrainingJob,
    step_times: dict[tuple[object, ...], StepTimes],
    times_by_network: dict[str, StepTimes],
    splits: dict[str, int],
    computed_outputs: set[tuple[str, int]],
) -> float:
    """Steps, validation, and what a teacher or labels are asked that nobody asked before (``computed_outputs``, by view)."""
    spec, times = job.spec, step_times[_timing_key(job)]
    seconds = times.seconds_per_step * max(splits["train"] // spec.training.batch, 1) * spec.epochs
    seconds += times.seconds_per_clip * splits["val"] * (spec.epochs - spec.epochs // 2)
    views = {(n.hash, v) for n in (job.teacher, *job.others) if n for v in range(min(spec.augment.views, spec.epochs))}
    if job.labels is not None and (job.labels.hash, -1) not in computed_outputs:
        by = job.folds or (job.labels,)
        views |= {(job.labels.hash, -1)} | (
            {(n.hash, v) for n in by for v in range(_AVERAGED_VIEWS)} if not spec.weak else set()
        )
    clips = {
        n.hash: times_by_network[n.spec.learner.name].seconds_per_clip * splits["train"] for n in job.required_jobs
    }
    seconds += sum(clips.get(by, 0.0) for by, view in views - computed_outputs)
    computed_outputs |= views
    return seconds


def _estimate_measurement_seconds(recipe: Recipe) -> float:
    """Tracing once, then files written and measured twice: with random weights, and trained."""
    files = (len(recipe.students) + len(recipe.students) * len(recipe.cascade_paths)) * len(
        recipe.export.precisions
    ) + 2
    measured = (len(recipe.students) * len(list_deployments(recipe)) + 1) + (len(list_candidates(recipe)) + 1)
    return _TRACE_S * (len(recipe.students) + 1) + files * _FILE_S + measured * _estimate_seconds_per_file(recipe)


def _estimate_grid_seconds(recipe: Recipe) -> float:
    each = len(recipe.export.precisions) * _FILE_S + len(list_deployments(recipe)) * _estimate_seconds_per_file(recipe)
    return len(build_network_grid(recipe)) * (_TRACE_S + each)


def _estimate_seconds_per_file(recipe: Recipe) -> float:
    """Seconds that one file on one runtime is measured for."""
    queries = recipe.bench.processes * recipe.bench.queries * _QUERY_MS / 1e3
    return queries + (ENERGY_S if recipe.choice.max_joules else 0.0)


def _find_students_over_budget(recipe: Recipe, times_by_network: dict[str, StepTimes]) -> set[str]:
    """Students that look too slow. PyTorch's milliseconds say something only beside the teacher's own."""
    if not recipe.choice.has_relative_budget:
        return set()
    limit = recipe.choice.budget_ms(times_by_network[recipe.teacher.name].seconds_per_clip) or 0.0
    return {s.name for s in recipe.students if times_by_network[s.name].seconds_per_clip > limit * _BUDGET_SLACK}


def _inspect_data(recipe: Recipe) -> tuple[int, dict[str, int], tuple[str, ...], DatasetFingerprint | None]:
    """Clips, clips by split, classes, and the facts that name jobs where the clips are decoded already."""
    cache = open_cache()
    if isinstance(recipe.data, GeneratedData) and not is_rendered(recipe.data, recipe.seed, cache):
        data = recipe.data
        splits = {"train": data.train, "val": data.val, "test": data.test}
        return sum(splits.values()), splits, generated_classes(data), None
    listing = list_clips(recipe.data, seed=recipe.seed, cache=cache, external_labels=recipe.labels.has_external_sources)
    splits = {split: sum(e.split == split for e in listing.entries) for split in ("train", "val", "test")}
    if not is_store_built(listing, *inference_preprocessing(recipe.clip), cache, recipe.clip.decoder):
        return len(listing.entries), splits, listing.classes, None
    return len(listing.entries), splits, listing.classes, fingerprint_of(load_training_data(recipe, cache))


def _estimate_data_seconds(recipe: Recipe, count: int, fingerprint: DatasetFingerprint | None) -> float:
    if fingerprint is not None:
        return 0.0
    return count * (_DECODE_S + (_RENDER_S if isinstance(recipe.data, GeneratedData) else 0.0)) + 4.0


def _is_finished(job: TrainingJob, out: Path | None) -> bool:
    homes = [open_cache() / "jobs", *([out / "jobs"] if out else [])]
    return any((home / job.hash / "job.json").exists() for home in homes)


def _measure_fastest(work: Callable[[], object], times: int) -> float:
    """The quickest of some runs, in seconds, after one that does not count."""
    work()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)
