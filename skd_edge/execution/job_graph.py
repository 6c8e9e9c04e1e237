"""The job graph of a recipe: each job of its cascades once, teachers before learners.

Cascades that begin with the same networks share their first jobs, because a job is identified by a hash of everything
that determines its result.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import cast

from skd_bench.files import sha256_file
from skd_edge.distill.job import JobRole, JobSpec, json_digest
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.efficientnet import imagenet_weights_fingerprint
from skd_edge.models.external.factory import factory_weights_fingerprint, find_factory_file
from skd_edge.models.external.loader import weights_fingerprint
from skd_edge.recipe.schema import NetworkSpec, Recipe, Teacher, TrainingSettings


@dataclass(frozen=True)
class DatasetFingerprint:
    """Hashes and classes of the data, as far as they are part of the hashes of jobs.

    Attributes:
        clips_hash: hash of the training clips and of the validation clips.
        weak_labels_hash: hash of the weak labels.
        class_count: number of classes.
        class_names: names of the classes, for a teacher with its own list of classes.
    """

    clips_hash: str
    weak_labels_hash: str
    class_count: int
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingJob:
    """A job and the jobs that it requires.

    Attributes:
        spec: the specification of the job.
        teacher: the job that trains the teacher, or None.
        start: the job whose weights the learner starts from, or None.
        labels: the job whose network estimates the pseudo-labels; None if the job uses the weak labels.
        others: the jobs of the teachers further up the cascade, where guidance is dense.
        folds: jobs that each leave out a part of the training clips; their predictions for these clips are used for
            the pseudo-labels instead of those of ``labels``.
    """

    spec: JobSpec
    teacher: TrainingJob | None = None
    start: TrainingJob | None = None
    labels: TrainingJob | None = None
    others: tuple[TrainingJob, ...] = ()
    folds: tuple[TrainingJob, ...] = ()

    @property
    def required_jobs(self) -> tuple[TrainingJob, ...]:
        """The jobs that must be finished before this one starts."""
        first = (self.start, *self.folds, self.labels, *self.others, self.teacher)
        return tuple(job for job in first if job is not None)

    @property
    def hash(self) -> str:
        """The hash of ``spec``; it identifies the job."""
        return self.spec.hash


def build_recipe_job_graph(
    recipe: Recipe, fingerprint: DatasetFingerprint, students: Iterable[NetworkSpec]
) -> list[TrainingJob]:
    """All jobs of a recipe for some of its students, each once, teachers before learners.

    Args:
        recipe: the recipe.
        fingerprint: describes the data.
        students: the students to train.
    """
    return build_job_graph(JobFactory(recipe, fingerprint), students)


def build_job_graph(factory: JobFactory, students: Iterable[NetworkSpec]) -> list[TrainingJob]:
    """All jobs that a factory makes for these students, each once, teachers before learners."""
    jobs: dict[tuple[str, tuple[str, ...]], TrainingJob] = {}
    for student in students:
        for path in factory.recipe.cascade_paths:
            _add_with_required(jobs, factory.make_cascade_job(student, path))
        for control in factory.recipe.schedule.controls:
            _add_with_required(
                jobs,
                factory.make_labels_only_job(student) if control == "alone" else factory.make_plain_kd_job(student),
            )
    return list(jobs.values())


def topological_order(wanted: Iterable[TrainingJob]) -> list[TrainingJob]:
    """These jobs and all that they require, each once, teachers before learners."""
    jobs: dict[tuple[str, tuple[str, ...]], TrainingJob] = {}
    for job in wanted:
        _add_with_required(jobs, job)
    return list(jobs.values())


def _add_with_required(jobs: dict[tuple[str, tuple[str, ...]], TrainingJob], job: TrainingJob) -> None:
    # Networks of equal architecture can have equal jobs. Both are listed, so that results are found by either name.
    key = (job.hash, job.spec.path)
    if key in jobs:  # so are its required jobs; visiting them again would take exponential time
        return
    for required in job.required_jobs:
        _add_with_required(jobs, required)
    jobs[key] = job


class JobFactory:
    """Makes the jobs of a recipe.

    Args:
        recipe: the recipe.
        fingerprint: describes the data.
        half_batch_networks: names of networks whose batches did not fit into memory; each of their batches is divided
            into twice as many parts.
    """

    def __init__(
        self, recipe: Recipe, fingerprint: DatasetFingerprint, half_batch_networks: Set[str] = frozenset()
    ) -> None:
        self.recipe, self.fingerprint, self.half_batch_networks = recipe, fingerprint, half_batch_networks

    def make_teacher_job(self) -> TrainingJob:
        """The job of the recipe's teacher.

        If labels are optimised, the teacher first trains on the weak labels (the scout) and then continues with
        pseudo-labels. A teacher that was trained elsewhere has a job without epochs.
        """
        network, optimise = self.recipe.teacher, self.recipe.labels.optimise
        name = [network.name]
        if not network.is_trained_here:
            by = "by its factory" if network.factory else f"by {network.source}"
            given = sha256_file(network.checkpoint) if network.checkpoint else by
            return TrainingJob(self._make_spec(network, "teacher", name, epochs=0, given=given))
        scout = TrainingJob(self._make_spec(network, "scout" if optimise else "teacher", name, weak=optimise))
        return self._make_refined_teacher_job(scout, self._make_fold_jobs(network)) if optimise else scout

    def _make_refined_teacher_job(self, scout: TrainingJob, folds: tuple[TrainingJob, ...]) -> TrainingJob:
        """The rounds after the scout: each continues the one before, with pseudo-labels estimated by it."""
        training, network, last = self.recipe.training, self.recipe.teacher, scout
        epochs = max(round(training.teacher_epochs * training.refine), 1)
        for rounds_left in reversed(range(training.rounds)):
            fold_jobs = folds if last is scout else ()
            name = f"{network.name}, round {training.rounds - rounds_left}" if rounds_left else network.name
            spec = self._make_spec(
                network,
                "scout" if rounds_left else "teacher",
                [name],
                start=last.hash,
                targets=self.hash_targets(last, fold_jobs),
                epochs=epochs,
            )
            last = TrainingJob(spec, start=last, labels=last, folds=fold_jobs)
        return last

    def make_cascade_job(self, student: NetworkSpec, path: Iterable[str]) -> TrainingJob:
        """The job of a student at the end of a cascade, in which every job uses the full method.

        Args:
            student: the student.
            path: names of the assistants between the teacher and the student.
        """
        last, above, names = self.make_teacher_job(), tuple[TrainingJob, ...](), [self.recipe.teacher.name]
        for name in path:
            names.append(name)
            job = self.make_distilled_job(self.recipe.networks[name], "assistant", names, last, above)
            last, above = job, (*above, last)
        return self.make_distilled_job(student, "student", [*names, student.name], last, above)

    def make_distilled_job(
        self,
        learner: NetworkSpec,
        role: JobRole,
        path: list[str],
        teacher: TrainingJob,
        above: tuple[TrainingJob, ...] = (),
    ) -> TrainingJob:
        """The job of a learner that is distilled with the full method.

        Args:
            learner: the network to train.
            role: purpose of the job.
            path: names of the networks from the teacher to the learner.
            teacher: the job of the teacher.
            above: the jobs further up the cascade; they also teach if the learner's guidance is dense.
        """
        labels = teacher if self.recipe.labels.optimise else None
        targets = self.hash_targets(teacher) if labels else self.fingerprint.weak_labels_hash
        training = self.recipe.training_of(learner)
        others, staged = above if training.dense else (), teacher.spec.learner.substage_count > 0
        spec = self._make_spec(
            learner,
            role,
            path,
            teacher=teacher.hash,
            targets=targets,
            staged=staged,
            others=tuple(o.hash for o in others),
            training=training,
        )
        return TrainingJob(spec, teacher=teacher, labels=labels, others=others)

    def make_labels_only_job(self, student: NetworkSpec) -> TrainingJob:
        """Control: the student is trained on the weak labels, without a teacher."""
        return TrainingJob(self._make_spec(student, "alone", [student.name]))

    def make_plain_teacher_job(self) -> TrainingJob:
        """The teacher of the controls: a given one, or one trained on the weak labels with cross-entropy only."""
        if (given := self.make_teacher_job()).spec.given is not None:
            return given
        network, epochs = self.recipe.teacher, self.recipe.training.teacher_epochs
        return TrainingJob(self._make_spec(network, "kd", [network.name], epochs=epochs))

    def make_plain_kd_job(self, student: NetworkSpec, path: Iterable[str] = (), **losses: object) -> TrainingJob:
        """Control: plain knowledge distillation from the teacher of `make_plain_teacher_job`.

        Args:
            student: the student.
            path: names of the assistants between teacher and student (TAKD, arXiv 1902.03393).
            losses: settings of ``training.losses`` that differ from plain KD.
        """
        changed = self.recipe.training.losses.model_copy(update={"logits_kind": "kd"} | losses)
        plain = self.recipe.training.model_copy(update={"losses": changed})
        last, names = self.make_plain_teacher_job(), [self.recipe.teacher.name]
        for network in (*(self.recipe.networks[name] for name in path), student):
            names.append(network.name)
            last = TrainingJob(self._make_spec(network, "kd", names, teacher=last.hash, training=plain), teacher=last)
        return last

    def hash_targets(self, labels: TrainingJob, folds: tuple[TrainingJob, ...] = ()) -> str:
        """The hash of pseudo-labels, from the jobs and the settings that they are estimated with."""
        how = self.recipe.labels.pseudo_label_settings
        by = [labels.hash, *(f.hash for f in folds)]
        return json_digest({"by": by, "weak": self.fingerprint.weak_labels_hash, "how": how})

    # -------------------------------------------------------------------------------------------- one job
    def _make_spec(self, learner: NetworkSpec, role: JobRole, path: list[str], **kw: object) -> JobSpec:
        r, is_teacher = self.recipe, role in ("scout", "teacher")
        settings: dict[str, object] = {
            "teacher": None,
            "start": None,
            "targets": self.fingerprint.weak_labels_hash,
            "weak": False,
            "staged": False,
            "epochs": r.training.teacher_epochs if is_teacher else r.training.epochs,
            "code": _hash_external_source(learner, r.seed),
            "names": self._matched_class_names(learner),
        }
        training = cast(TrainingSettings, kw.pop("training", r.training))
        if learner.name in self.half_batch_networks:
            training = training.model_copy(update={"accumulate": 2 * training.accumulate})
        return JobSpec(
            learner=learner,
            role=role,
            path=tuple(path),
            data=self.fingerprint.clips_hash,
            classes=self.fingerprint.class_count,
            clip=r.clip,
            augment=r.augment,
            seed=r.seed,
            training=training,
            **(settings | kw),  # type: ignore[arg-type]
        )

    def _matched_class_names(self, learner: NetworkSpec) -> tuple[str, ...]:
        """The class names of the data if they determine which of the learner's logits are used; else empty."""
        if not isinstance(learner, Teacher) or learner.is_trained_here:
            return ()
        return (
            self.fingerprint.class_names
            if any(m.classes or m.source not in (None, "factory") for m in learner.members)
            else ()
        )

    def _make_fold_jobs(self, network: NetworkSpec) -> tuple[TrainingJob, ...]:
        """Jobs that each leave out another part of the clips, if ``labels.folds`` asks for out-of-fold predictions."""
        parts = self.recipe.labels.folds
        return tuple(
            TrainingJob(
                self._make_spec(
                    network, "scout", [f"{network.name}, part {i + 1} of {parts} left out"], weak=True, fold=(i, parts)
                )
            )
            for i in range(parts)
        )


def _hash_external_source(network: NetworkSpec, seed: int) -> str | None:
    """A hash of everything outside the recipe that determines a network: its factory's file, and its given weights."""
    if isinstance(network, Teacher) and network.ensemble:
        files = [sha256_file(m.checkpoint) if m.checkpoint else None for m in network.ensemble]
        return json_digest([files, [_hash_external_source(m, seed) for m in network.ensemble]])
    if network.factory:
        source = find_factory_file(network)
        parts = [sha256_file(source) if source else None, factory_weights_fingerprint(network, seed)]
        return json_digest(parts + ([weights_fingerprint(network)] if network.pretrained else []))
    if network.start == "imagenet":
        return imagenet_weights_fingerprint(network.family)
    return weights_fingerprint(network)


def fingerprint_of(training_data: TrainingData) -> DatasetFingerprint:
    """The fingerprint of loaded training data."""
    clips = training_data.clips
    return DatasetFingerprint(
        f"{clips.train.hash}:{clips.val.hash}", training_data.weak_hash, len(clips.classes), clips.classes
    )
