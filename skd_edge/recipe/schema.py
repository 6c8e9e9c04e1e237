"""What a recipe may say: frozen pydantic models, unknown keys refused, defaults in this one place.

Reading a recipe from a file (``extends``, ``--set``, line numbers in errors) is ``recipe_file.py``.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal

from pydantic import Field, model_validator

from skd_edge.recipe.base import Name, Share
from skd_edge.recipe.base import RecipeSection as RecipeSection
from skd_edge.recipe.data import Data, TableData
from skd_edge.recipe.labels import LabelSettings
from skd_edge.recipe.networks import Layout as Layout
from skd_edge.recipe.networks import NetworkSpec as NetworkSpec
from skd_edge.recipe.networks import SingleTeacher as SingleTeacher
from skd_edge.recipe.networks import Teacher as Teacher
from skd_edge.recipe.networks import TeacherClip as TeacherClip
from skd_edge.recipe.sections import (
    AugmentationSettings,
    BenchmarkSettings,
    ClipSettings,
    ExportSettings,
    Licences,
    ScheduleSettings,
    SearchSpace,
    SelectionRule,
)
from skd_edge.recipe.training import LossSettings as LossSettings
from skd_edge.recipe.training import TrainingSettings as TrainingSettings

# ---------------------------------------------------------------------------------------------- clips


# ---------------------------------------------------------------------------------------------- schedule


# ---------------------------------------------------------------------------------------------- the whole
class Recipe(RecipeSection):
    """One ``compress``: data and weak labels, networks, training, export, measurement, choice."""

    name: Name
    seed: int = Field(0, ge=0, le=2**31 - 1)
    data: Data
    min_clips: Share = Field(0.9, description="share of the listed clips that must be readable for the run to go on")
    clip: ClipSettings = ClipSettings()
    augment: AugmentationSettings = AugmentationSettings()
    labels: LabelSettings = LabelSettings()
    teacher: Teacher = Teacher()
    assistants: tuple[NetworkSpec, ...] = ()
    students: tuple[NetworkSpec, ...] = Field(
        description="the networks that may ship, or auto: proposed from the space"
    )
    auto: tuple[Literal["students", "assistants"], ...] = Field(
        (), description="what is proposed; students: auto is short for students: [] and this"
    )
    space: SearchSpace = SearchSpace()
    training: TrainingSettings = TrainingSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    export: ExportSettings = ExportSettings()
    bench: BenchmarkSettings = BenchmarkSettings()
    choice: SelectionRule = SelectionRule()
    licences: Licences = Licences()

    @property
    def networks(self) -> dict[str, NetworkSpec]:
        """Every network by its name: the teacher, the assistants, the students."""
        return {n.name: n for n in (self.teacher, *self.assistants, *self.students)}

    @property
    def cascade_paths(self) -> tuple[tuple[str, ...], ...]:
        """The cascades tried for each student: the assistants between teacher and student, in order."""
        if (written := self.schedule.paths) is not None:  # halving always has the direct one, which others must beat
            return written if () in written or not self.uses_successive_halving else ((), *written)
        if self.uses_successive_halving:
            names = [a.name for a in self.assistants]
            return tuple(path for count in range(len(names) + 1) for path in combinations(names, count))
        return ((), tuple(a.name for a in self.assistants)) if self.assistants else ((),)

    def training_of(self, learner: NetworkSpec) -> TrainingSettings:
        """How a job of the method trains this learner."""
        return learner.training.apply_to(self.training) if learner.training else self.training

    @property
    def same_architecture(self) -> dict[str, str]:
        """By a student's name the first student that is the same network: it takes as long, whatever it was taught."""
        first: dict[str, str] = {}
        return {s.name: first.setdefault(str(s.architecture), s.name) for s in self.students}

    @property
    def uses_successive_halving(self) -> bool:
        """Whether successive halving decides what is trained to the end."""
        return (self.schedule.search or ("halving" if self.auto else "exhaustive")) == "halving"

    @model_validator(mode="after")
    def _check_consistency(self) -> Recipe:
        self._check_search_settings()
        table = self.data if isinstance(self.data, TableData) else None
        by = {"data.votes": table and table.votes, "data.annotator": table and table.annotator}
        voted = by | {"labels.rules": self.labels.rules, "labels.models": self.labels.models}
        if (given := [name for name, there in voted.items() if there]) and self.labels.noise.kind != "none":
            raise ValueError(
                f"labels.noise.kind {self.labels.noise.kind} makes noise out of known labels, and {given[0]} are not "
                "known to be right; leave one of the two out"
            )
        names = [self.teacher.name, *(a.name for a in self.assistants), *(s.name for s in self.students)]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two networks are called {twice[0]!r}; each needs its own name")
        known = {a.name for a in self.assistants}
        for path in self.schedule.paths or ():
            if strange := [n for n in path if n not in known]:
                raise ValueError(
                    f"schedule.paths names {strange[0]!r}, which is no assistant; there are: "
                    f"{', '.join(sorted(known)) or 'none'}"
                )
            if len(set(path)) != len(path):
                raise ValueError(f"schedule.paths goes in a circle: {' -> '.join(path)}")
        first = self.teacher if self.teacher.substage_count else (*self.assistants, *self.students)[0]
        for network in (*self.assistants, *self.students):
            if network.substage_count != first.substage_count:
                length = "'teacher.substages' and of 'depths'" if self.teacher.source else "'depths'"
                raise ValueError(
                    f"{network.name} has {network.substage_count} substages and {first.name} has "
                    f"{first.substage_count}; corresponding substages need equal counts (the length of {length})"
                )
            if (network.size or self.clip.size) < 2 ** len(network.depths):
                raise ValueError(
                    f"{network.name} halves the image {len(network.depths)} times, which clip.size "
                    f"{network.size or self.clip.size} does not allow; use fewer substages or a larger size"
                )
        ways = (way.apply_to(self.training) for way in self.space.ways.values())
        for training in (self.training, *map(self.training_of, (*self.assistants, *self.students)), *ways):
            match, most = training.match, first.substage_count
            if match is not None and (not match or list(match) != sorted(set(match)) or match[-1] > most):
                raise ValueError(
                    f"training.match lists numbers of substages in rising order, 1 to {most} here; {list(match)} does "
                    "not"
                )
            if training.combination == "graft" and (alien := self._find_ungraftable_teacher()):
                raise ValueError(
                    f"training.combination: graft runs the teacher's later substages alone, which {alien} cannot do; "
                    "use curriculum or none"
                )
        self._check_logits_teacher()
        if self.training.accumulate * 2 > self.training.batch and self.training.accumulate > 1:
            raise ValueError(
                f"training.accumulate cuts a batch of {self.training.batch} into {self.training.accumulate} parts, and "
                "relations between clips need two in each; use fewer parts"
            )
        if self.labels.folds == 1:
            raise ValueError("labels.folds: one fold leaves nothing to learn from; use 0 (none) or 2 and more")
        if {"int8", "int8-trt"} & {*self.export.precisions} and self.export.calibration_clips == 0:
            raise ValueError("INT8 needs calibration clips: set export.calibration_clips above 0, or drop int8")
        if self.export.frame_size and self.export.contract != "frames":
            raise ValueError("export.frame_size is for files that take frames: set export.contract to frames")
        if self.export.litert and self.export.contract != "clip":
            raise ValueError("export.litert writes a file that takes normalised clips: set export.contract to clip")
        return self

    def _find_ungraftable_teacher(self) -> str | None:
        """A teacher of which no later part can be run alone."""
        if self.teacher.source:
            return f"a teacher that comes from {'a factory' if self.teacher.factory else self.teacher.source}"
        teachers = (self.teacher, *self.assistants)
        return next((f"{n.family} ({n.name})" for n in teachers if n.family not in ("resnet", "mobile")), None)

    def _check_logits_teacher(self) -> None:
        """What a teacher that is only a file of answers cannot do."""
        if self.teacher.logits is None:
            return
        if self.augment.mixup:
            raise ValueError("augment.mixup mixes clips, of which teacher.logits knows no answers; set it to 0")
        if self.choice.has_relative_budget:
            raise ValueError(
                f"choice.budget {self.choice.budget!r} needs the teacher's milliseconds, and teacher.logits is no "
                "network; give the budget in milliseconds ('8 ms')"
            )

    def _check_search_settings(self) -> None:
        """What students look at divides the clip, and what is proposed has something to be proposed from."""
        if not self.students and "students" not in self.auto:
            raise ValueError("students lists no network; describe one, or write 'students: auto'")
        if self.students and "students" in self.auto:
            raise ValueError("auto says that students are proposed, and students lists some; remove one of the two")
        if self.assistants and "assistants" in self.auto:
            raise ValueError("auto says that assistants are proposed, and assistants lists some; remove one of the two")
        if self.space.ways and "students" not in self.auto:
            raise ValueError(
                "space.ways is for 'students: auto'; a student that is listed has its own 'training', and one network "
                "may be listed in several ways"
            )
        if self.auto and not self.space.widths and not self.teacher.is_scalable:
            raise ValueError("space.widths is missing: this teacher has no width to propose smaller ones by")
        if list(self.schedule.rungs) != sorted(set(self.schedule.rungs)):
            raise ValueError(f"schedule.rungs are shares in rising order; {list(self.schedule.rungs)} are not")
        if wrong := [d for d in self.space.depths or () if len(d) != (self.teacher.substage_count or len(d))]:
            raise ValueError(
                f"space.depths has {list(wrong[0])}, and the teacher has {self.teacher.substage_count} substages; "
                "corresponding substages need equal counts"
            )
        for network in (self.teacher, *self.assistants, *self.students):
            for key, wanted, available in (
                ("frames", network.frames, self.clip.frames),
                ("size", network.size, self.clip.size),
            ):
                if wanted is not None and available % wanted:
                    raise ValueError(
                        f"{network.name} looks at {key} {wanted}, which does not divide clip.{key} {available}"
                    )
            if network.causal and (network.frames or network.size):
                raise ValueError(f"{network.name} is causal, so it streams whole frames; remove its frames and size")
            if self.training_of(network).combination == "graft" and (network.frames or network.size):
                raise ValueError(
                    f"training.combination: graft runs the teacher's later substages on {network.name}'s maps, so it "
                    "must look at the same frames and size as the teacher; remove its frames and size"
                )
