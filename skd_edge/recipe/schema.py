"""The whole recipe as a frozen pydantic model, with the checks that involve several sections.

Unknown keys are errors. Defaults are defined only in these models. Reading a recipe from a file (``extends``,
``--set``, line numbers in errors) is in skd_edge/recipe/loader.py.

For a message about the whole recipe, validation.py finds the line to report from the message: by its first dotted path,
its quoted values, or its first word. So start the messages below with the setting or the network that they are about.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from skd_edge.recipe.base import Name, Share, exclude_when_default
from skd_edge.recipe.base import RecipeSection as RecipeSection
from skd_edge.recipe.cross_validation import CrossValidation
from skd_edge.recipe.data import Data, FolderData, TableData, find_pattern_problem
from skd_edge.recipe.labels import LabelSettings
from skd_edge.recipe.networks import Layout as Layout
from skd_edge.recipe.networks import NetworkSpec as NetworkSpec
from skd_edge.recipe.networks import SingleTeacher as SingleTeacher
from skd_edge.recipe.networks import Teacher as Teacher
from skd_edge.recipe.networks import TeacherClip as TeacherClip
from skd_edge.recipe.path_texts import PathTexts
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


class Recipe(RecipeSection):
    """The settings of one run of ``compress``."""

    name: Name
    seed: int = Field(0, ge=0, le=2**31 - 1)
    data: Data
    min_clips: Share = Field(
        0.9, description="share of the listed clips that must be readable; otherwise the run stops"
    )
    allow_test_copies: bool = Field(
        False,
        description="whether test clips may be copies, or nearly copies, of training or validation clips. Otherwise "
        "the run stops, because such clips make the test accuracy too high",
    )
    clip: ClipSettings = ClipSettings()
    augment: AugmentationSettings = AugmentationSettings()
    labels: LabelSettings = LabelSettings()
    teacher: Teacher = Teacher()
    assistants: tuple[NetworkSpec, ...] = ()
    students: tuple[NetworkSpec, ...] = Field(
        description="the networks that can be chosen and shipped; auto: proposed from `space`"
    )
    auto: tuple[Literal["students", "assistants"], ...] = Field(
        (), description="networks to propose; `students: auto` is short for `students: []` and `auto: [students]`"
    )
    space: SearchSpace = SearchSpace()
    training: TrainingSettings = TrainingSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    export: ExportSettings = ExportSettings()
    bench: BenchmarkSettings = BenchmarkSettings()
    choice: SelectionRule = SelectionRule()
    cross_validation: CrossValidation | None = Field(None, exclude_if=exclude_when_default(None))
    licences: Licences = Licences()
    _path_texts: PathTexts = PrivateAttr(default_factory=PathTexts)

    def model_post_init(self, context: Any, /) -> None:
        """Take the texts of paths from the validation context; a recipe that was not read from a file has none."""
        self._path_texts = (context or {}).get("path_texts", self._path_texts)

    @property
    def path_texts(self) -> PathTexts:
        """How paths with environment variables are written; files of a run show this, not the values."""
        return self._path_texts

    @property
    def has_external_labels(self) -> bool:
        """Whether rules, models or checked labels may label training clips, besides the dataset."""
        return self.labels.has_external_sources or getattr(self.data, "trusted", None) is not None

    @property
    def fold(self) -> int | None:
        """The fold of the cross-validation that this run trains, from 1; None: the splits of ``data``."""
        return self.cross_validation.fold if self.cross_validation else None

    @property
    def networks(self) -> dict[str, NetworkSpec]:
        """All networks by name: the teacher, the assistants, the students."""
        return {n.name: n for n in (self.teacher, *self.assistants, *self.students)}

    @property
    def cascade_paths(self) -> tuple[tuple[str, ...], ...]:
        """The cascades to try for each student: for each, the assistants between teacher and student, in order."""
        if (written := self.schedule.paths) is not None:
            # Successive halving compares other cascades with the direct one, so it always includes that.
            return written if () in written or not self.uses_successive_halving else ((), *written)
        if self.uses_successive_halving:
            names = [a.name for a in self.assistants]
            return tuple(path for count in range(len(names) + 1) for path in combinations(names, count))
        return ((), tuple(a.name for a in self.assistants)) if self.assistants else ((),)

    def training_of(self, learner: NetworkSpec) -> TrainingSettings:
        """The training settings of this learner, for jobs of the method (not for controls)."""
        return learner.training.apply_to(self.training) if learner.training else self.training

    @property
    def same_architecture(self) -> dict[str, str]:
        """For each student, the first student with the same architecture; both have the same latency."""
        first: dict[str, str] = {}
        return {s.name: first.setdefault(str(s.architecture), s.name) for s in self.students}

    @property
    def uses_successive_halving(self) -> bool:
        """Whether successive halving decides which students are trained to the end."""
        return (self.schedule.search or ("halving" if self.auto else "exhaustive")) == "halving"

    @model_validator(mode="after")
    def _check_consistency(self) -> Recipe:
        self._check_search_settings()
        self._check_cross_validation()
        table = self.data if isinstance(self.data, TableData) else None
        by = {"data.votes": table and table.votes, "data.annotator": table and table.annotator}
        voted = by | {"labels.rules": self.labels.rules, "labels.models": self.labels.models}
        if (given := [name for name, there in voted.items() if there]) and self.labels.noise.kind != "none":
            raise ValueError(
                f"labels.noise.kind {self.labels.noise.kind} adds noise to correct labels, but labels of {given[0]} "
                "may be wrong; remove one of the two"
            )
        if self.labels.trusted_per_class and self.labels.noise.kind == "none":
            raise ValueError(
                "labels.trusted_per_class takes listed labels as checked ones, which is for studies with label noise; "
                "add labels.noise, or name the checked clips in labels.trusted or data.trusted"
            )
        names = [self.teacher.name, *(a.name for a in self.assistants), *(s.name for s in self.students)]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two networks are called {twice[0]!r}; give each network its own name")
        known = {a.name for a in self.assistants}
        for path in self.schedule.paths or ():
            if strange := [n for n in path if n not in known]:
                raise ValueError(
                    f"schedule.paths names {strange[0]!r}, which is not an assistant; choose from: "
                    f"{', '.join(sorted(known)) or 'none'}"
                )
            if len(set(path)) != len(path):
                raise ValueError(
                    f"schedule.paths names an assistant twice in one path: {' -> '.join(path)}; remove one"
                )
        first = self.teacher if self.teacher.substage_count else (*self.assistants, *self.students)[0]
        for network in (*self.assistants, *self.students):
            if network.substage_count != first.substage_count:
                keys = {"'depths'" if one.source is None else f"'{one.label}.substages'" for one in (network, first)}
                length = " and of ".join(sorted(keys, reverse=True))
                raise ValueError(
                    f"{network.name} has {network.substage_count} substages and {first.name} has "
                    f"{first.substage_count}; corresponding substages need equal counts (change the length of {length})"
                )
            if network.source is None and (network.size or self.clip.size) < 2 ** len(network.depths):
                raise ValueError(
                    f"{network.name} halves the image {len(network.depths)} times, which clip.size "
                    f"{network.size or self.clip.size} does not allow; use fewer substages or a larger size"
                )
        ways = (way.apply_to(self.training) for way in self.space.ways.values())
        for training in (self.training, *map(self.training_of, (*self.assistants, *self.students)), *ways):
            match, most = training.match, first.substage_count
            if match is not None and (not match or list(match) != sorted(set(match)) or match[-1] > most):
                raise ValueError(
                    f"training.match must be numbers of substages in rising order, from 1 to {most} here; change "
                    f"{list(match)}"
                )
            if training.combination == "graft" and (unsupported := self._find_ungraftable_teacher()):
                raise ValueError(
                    f"training.combination: graft runs the teacher's later substages separately, which {unsupported} "
                    "cannot do; use curriculum or none"
                )
        self._check_logits_teacher()
        if self.training.accumulate * 2 > self.training.batch and self.training.accumulate > 1:
            raise ValueError(
                f"training.accumulate divides a batch of {self.training.batch} into {self.training.accumulate} parts, "
                "but relations between clips need at least two clips in each part; use fewer parts"
            )
        if self.labels.folds == 1:
            raise ValueError(
                "labels.folds: with one fold, no clips remain for training; use 0 (no folds), or at least 2"
            )
        quantised = {"int8", "int8-trt", "fp8"}.intersection(self.export.precisions)
        if quantised and self.export.calibration_clips == 0:
            listed = ", ".join(sorted(quantised))
            raise ValueError(f"{listed} needs calibration clips; set export.calibration_clips above 0, or remove it")
        if self.export.frame_size and self.export.contract != "frames":
            raise ValueError("export.frame_size is for files whose input is frames; set export.contract to frames")
        if self.export.litert and self.export.contract != "clip":
            raise ValueError("export.litert writes a file whose input is normalised clips; set export.contract to clip")
        if "litert" in self.bench.runtime and self.export.contract != "clip":
            raise ValueError(
                "bench.runtime litert takes normalised clips; set export.contract to clip, or remove litert"
            )
        return self

    def _find_ungraftable_teacher(self) -> str | None:
        """Describe a teacher or assistant whose later substages cannot run separately; None if there is none."""
        if self.teacher.source:
            return f"a teacher that comes from {'a factory' if self.teacher.factory else self.teacher.source}"
        networks = (self.teacher, *self.assistants)
        return next((f"{n.source or n.family} ({n.name})" for n in networks if not n.is_scalable), None)

    def _check_cross_validation(self) -> None:
        """Refuse folds without groups, and folds that would score clips whose labels are weak."""
        given, data = self.cross_validation, self.data
        if given is None:
            return
        if given.group is not None and not hasattr(data, "group"):
            raise ValueError(
                f"cross_validation.group: clips of data.kind {data.kind} have groups of their own; remove it"
            )
        if given.group is None and getattr(data, "group", "") is None:
            what = "a column of the table" if isinstance(data, TableData) else "a pattern in the clips' names"
            raise ValueError(
                f"cross_validation.group is missing: folds need to know which clips belong together; name {what} "
                "(one person, one recording)"
            )
        if (
            given.group is not None
            and not isinstance(data, TableData)
            and (problem := find_pattern_problem(given.group))
        ):
            raise ValueError(f"cross_validation.group: {problem}")
        weak = {
            "labels.rules": self.labels.rules,
            "labels.models": self.labels.models,
            "labels.trusted": self.labels.trusted,
            "data.trusted": getattr(data, "trusted", None),
            "data.votes": isinstance(data, TableData) and data.votes,
            "data.annotator": isinstance(data, TableData) and data.annotator,
            "data.unlabelled": isinstance(data, FolderData) and data.unlabelled,
        }
        if given.score == "all" and (found := [name for name, there in weak.items() if there]):
            raise ValueError(
                f"cross_validation.score: all tests every clip with a label, but with {found[0]} the labels of the "
                "training clips are not checked; set cross_validation.score to checked"
            )
        if given.score == "checked" and isinstance(data, FolderData) and not (data.val_root or data.test_root):
            raise ValueError(
                "cross_validation.score: checked tests the clips of the validation and test splits, but these are "
                "shares of data.root; give data.val_root or data.test_root, or set cross_validation.score to all"
            )

    def _check_logits_teacher(self) -> None:
        """Refuse settings that a teacher without a network, a file of logits, cannot support."""
        if self.teacher.logits is None:
            return
        if self.augment.mixup:
            raise ValueError(
                "augment.mixup mixes clips, but teacher.logits has no logits for mixed clips; set augment.mixup to 0"
            )
        if self.choice.has_relative_budget:
            raise ValueError(
                f"choice.budget {self.choice.budget!r} needs the teacher's latency, but teacher.logits is not a "
                "network; give the budget in milliseconds ('8 ms')"
            )

    def _check_search_settings(self) -> None:
        """Check the networks' frames and sizes against the clip, and the settings of proposed networks."""
        if not self.students and "students" not in self.auto:
            raise ValueError("students is an empty list; describe one, or write 'students: auto'")
        if self.students and "students" in self.auto:
            raise ValueError("auto proposes the students, but students also lists some; remove one of the two")
        if self.assistants and "assistants" in self.auto:
            raise ValueError("auto proposes the assistants, but assistants also lists some; remove one of the two")
        if self.space.ways and "students" not in self.auto:
            raise ValueError(
                "space.ways is for 'students: auto'; for listed students, use a student's own 'training', and list the "
                "same network several times"
            )
        if self.auto and not self.space.widths and not self.teacher.is_scalable:
            raise ValueError(
                "space.widths is missing; this teacher has no width to derive smaller ones from, so list the widths"
            )
        if list(self.schedule.rungs) != sorted(set(self.schedule.rungs)):
            raise ValueError(f"schedule.rungs must be shares in rising order; change {list(self.schedule.rungs)}")
        if wrong := [d for d in self.space.depths or () if len(d) != (self.teacher.substage_count or len(d))]:
            raise ValueError(
                f"space.depths has {list(wrong[0])}, but the teacher has {self.teacher.substage_count} substages; "
                "corresponding substages need equal counts (change the length of this entry)"
            )
        for network in (self.teacher, *self.assistants, *self.students):
            for key, wanted, available in (
                ("frames", network.frames, self.clip.frames),
                ("size", network.size, self.clip.size),
            ):
                if wanted is not None and available % wanted:
                    raise ValueError(
                        f"{network.name} uses {key} {wanted}, which does not divide clip.{key} {available}; change it"
                    )
            if network.causal and (network.frames or network.size):
                raise ValueError(
                    f"{network.name} is causal, so it processes all frames in full size; remove its frames and size"
                )
            if self.training_of(network).combination == "graft" and network.source and network is not self.teacher:
                raise ValueError(
                    f"training.combination: graft needs the maps of {network.name}'s substages, which a network of "
                    f"{network.source} does not give; use curriculum or none"
                )
            if self.training_of(network).combination == "graft" and (network.frames or network.size):
                raise ValueError(
                    f"training.combination: graft runs the teacher's later substages on {network.name}'s maps, so it "
                    "must use the same frames and size as the teacher; remove its frames and size"
                )
