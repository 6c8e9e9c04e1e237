"""Seconds of a job from the times of its steps, as if it were alone on this machine, whatever runs beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.job import JobSpec
from skd_edge.distill.step_profiler import StepTimes, measure_step_times
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.models.builder import AnyNetwork, build_network
from skd_edge.recipe.schema import NetworkSpec, Recipe, Teacher

_AVERAGED_VIEWS = 4  # pseudo-labels average the teacher's predictions over this many views
Paces = dict[tuple[object, ...], StepTimes]


def build_for_timing(recipe: Recipe, spec: NetworkSpec, names: tuple[str, ...]) -> AnyNetwork:
    """A network of the recipe with random weights, for these classes."""
    return build_network(spec, classes=len(names), clip=recipe.clip, seed=0, names=names)


def is_logits_file(spec: NetworkSpec) -> bool:
    """Whether the teacher is a file of logits, which has no network."""
    return isinstance(spec, Teacher) and spec.logits is not None


def timing_key(job: TrainingJob) -> tuple[object, ...]:
    """Jobs with the same key take equally long for a step, so one of them is timed."""
    spec = job.spec
    return (
        str(spec.learner.architecture),
        spec.staged,
        spec.weak,
        spec.training,
        job.teacher and str(job.teacher.spec.learner.architecture),
        bool(spec.epochs),
    )


def time_jobs(recipe: Recipe, jobs: list[TrainingJob], names: tuple[str, ...]) -> Paces:
    """Time a few steps of each kind of job, one after the other; the result is by `timing_key`.

    Args:
        recipe: the recipe.
        jobs: its jobs.
        names: names of the classes.
    """
    step_times = Paces()
    for job in jobs:
        if is_logits_file(job.spec.learner):
            step_times[timing_key(job)] = StepTimes(0.0, 0.0)
        if timing_key(job) not in step_times:
            teacher_spec = job.teacher.spec.learner if job.teacher else None
            teacher = (
                build_for_timing(recipe, teacher_spec, names)
                if teacher_spec and not is_logits_file(teacher_spec)
                else None
            )
            step_times[timing_key(job)] = measure_step_times(job.spec, teacher, inference_preprocessing(recipe.clip)[1])
    return step_times


def estimate_training_seconds(spec: JobSpec, times: StepTimes, splits: Mapping[str, int]) -> float:
    """Seconds for the steps and the validation of a job.

    Args:
        spec: the job.
        times: of a step and of a clip of its network, for example measured when nothing else ran.
        splits: number of clips, by split.
    """
    steps = max(splits["train"] // spec.training.batch, 1) * spec.epochs
    validated = splits["val"] * (spec.epochs - spec.epochs // 2)
    return times.seconds_per_step * steps + times.seconds_per_clip * validated


def estimate_job_seconds(
    job: TrainingJob,
    step_times: Mapping[tuple[object, ...], StepTimes],
    times_by_network: Mapping[str, StepTimes],
    splits: Mapping[str, int],
    computed_outputs: set[tuple[str, int]],
) -> float:
    """Seconds for steps, validation, and the teacher outputs and label predictions that no earlier job computed.

    Args:
        job: the job to estimate.
        step_times: by `timing_key`.
        times_by_network: by the network's name.
        splits: number of clips, by split.
        computed_outputs: (job hash, view) of the outputs that earlier jobs computed; those of this job are added.
    """
    spec, times = job.spec, step_times[timing_key(job)]
    seconds = estimate_training_seconds(spec, times, splits)
    view_count = min(spec.augment.views, spec.epochs)
    teachers = [teacher for teacher in (job.teacher, *job.others) if teacher]
    views = {(teacher.hash, view) for teacher in teachers for view in range(view_count)}
    if job.labels is not None and (job.labels.hash, -1) not in computed_outputs:  # -1 stands for the labels themselves
        views.add((job.labels.hash, -1))
        if not spec.weak:
            labellers = job.folds or (job.labels,)
            views |= {(labeller.hash, view) for labeller in labellers for view in range(_AVERAGED_VIEWS)}
    seconds_per_view = {
        required.hash: times_by_network[required.spec.learner.name].seconds_per_clip * splits["train"]
        for required in job.required_jobs
    }
    seconds += sum(seconds_per_view.get(job_hash, 0.0) for job_hash, _ in views - computed_outputs)
    computed_outputs |= views
    return seconds


def estimate_paced_seconds(
    jobs: Sequence[TrainingJob], step_times: Mapping[tuple[object, ...], StepTimes], splits: Mapping[str, int]
) -> list[float]:
    """Seconds of jobs that share teacher outputs: steps times a paced step, validation, outputs.

    Args:
        jobs: the jobs in the order of training.
        step_times: by `timing_key`; measured when nothing else ran.
        splits: number of clips, by split.
    """
    by_network = {job.spec.learner.name: step_times[timing_key(job)] for job in reversed(jobs)}
    computed = set[tuple[str, int]]()
    return [estimate_job_seconds(job, step_times, by_network, splits, computed) for job in jobs]
