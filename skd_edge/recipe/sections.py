"""Sections of a recipe that are small: clip, augmentation, schedule, export, bench, choice, licences."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from skd_edge.recipe.base import Name, Share, exclude_when_default
from skd_edge.recipe.base import RecipeSection as RecipeSection
from skd_edge.recipe.networks import Layout as Layout
from skd_edge.recipe.networks import NetworkSpec as NetworkSpec
from skd_edge.recipe.networks import SingleTeacher as SingleTeacher
from skd_edge.recipe.networks import Teacher as Teacher
from skd_edge.recipe.networks import TeacherClip as TeacherClip
from skd_edge.recipe.training import LossSettings as LossSettings
from skd_edge.recipe.training import TrainingOverrides
from skd_edge.recipe.training import TrainingSettings as TrainingSettings

Precision = Literal["fp32", "fp16", "int8", "int8-trt"]


Runtime = Literal["ort", "openvino"]


Pixels = Annotated[int, Field(ge=16, le=4096)]


def _wrap_in_tuple(value: object) -> object:
    """One name stands for a list of it."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _check_distinct_runtimes(value: tuple[Runtime, ...]) -> tuple[Runtime, ...]:
    if twice := sorted({name for name in value if value.count(name) > 1}):
        raise ValueError(f"{twice[0]} is listed twice; name each runtime once")
    return value


_RUNTIME_SCHEMA: dict[str, object] = {"enum": list(get_args(Runtime))}


Runtimes = Annotated[
    tuple[Runtime, ...],
    Field(min_length=1),
    AfterValidator(_check_distinct_runtimes),
    BeforeValidator(_wrap_in_tuple),
    WithJsonSchema(
        {"anyOf": [_RUNTIME_SCHEMA, {"type": "array", "items": _RUNTIME_SCHEMA, "minItems": 1, "uniqueItems": True}]}
    ),
]


class ClipSettings(RecipeSection):
    """How a video becomes the network's input, in the lab and on the device alike."""

    frames: int = Field(8, ge=1, le=128, description="frames given to the network")
    size: int = Field(32, ge=16, le=512, multiple_of=2, description="height and width of the network's input, pixels")
    sampling: Literal["uniform", "dense", "segment"] = "uniform"
    stride: int = Field(2, ge=1, le=64, description="frames between two samples (dense and segment sampling)")
    segments: int = Field(
        1,
        ge=1,
        le=128,
        exclude_if=exclude_when_default(1),
        description="equal parts of the video that each give frames / segments frames (segment sampling)",
    )
    fit: Literal["crop", "stretch", "pad"] = "crop"
    decoder: Literal["pyav", "torchcodec"] = Field(
        "pyav",
        exclude_if=exclude_when_default("pyav"),
        description="what decodes the clips that training and validation read; the device always decodes with PyAV",
    )
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (
        0.225,
        0.225,
        0.225,
    )

    @model_validator(mode="after")
    def _check_segments(self) -> ClipSettings:
        if self.segments > 1 and self.sampling != "segment":
            raise ValueError(f"clip.segments is for clip.sampling: segment, not {self.sampling}; remove one of them")
        if self.frames % self.segments:
            raise ValueError(
                f"clip.frames {self.frames} cannot be cut into {self.segments} equal parts (clip.segments)"
            )
        return self


class AugmentationSettings(RecipeSection):
    """What a view may change. Flips are off: where motion is the class, a flip changes the label."""

    shift: int = Field(3, ge=0, le=64, description="random translation, up to this many pixels each way")
    brightness: Share = 0.1
    contrast: Share = 0.2
    flip: bool = Field(False, description="mirror left-right at random; only where mirroring keeps the class")
    mixup: float = Field(
        0.0,
        ge=0,
        le=8,
        description="mix clips in pairs, shares from Beta(mixup, mixup); teacher and learner see the mix",
    )
    views: int = Field(8, ge=1, le=64, description="distinct views a clip; an epoch e uses view e mod views")


class SearchSpace(RecipeSection):
    """What ``students: auto`` and ``assistants: auto`` choose from: a grid whose networks are weighed untrained.

    Those over the budget are dropped, and of the others a handful is kept, spread along the milliseconds.
    """

    keep: int = Field(6, ge=1, le=24, description="students that are kept and trained")
    assistants: int = Field(2, ge=0, le=4, description="assistants that are put between the teacher and the students")
    families: tuple[Literal["resnet", "mobile"], ...] = Field(("mobile", "resnet"), min_length=1)
    widths: tuple[Annotated[int, Field(ge=4, le=512)], ...] | None = Field(
        None,
        min_length=1,
        description="default: the teacher's width, and five smaller ones, each 0.71 of the next",
    )
    depths: tuple[tuple[Annotated[int, Field(ge=1, le=32)], ...], ...] | None = Field(
        None, min_length=1, description="default: one block in each substage"
    )
    temporal: tuple[Literal["none", "shift", "conv"], ...] = Field(
        ("conv", "shift"), min_length=1, description="the first one at every width; the others in turn, see frames"
    )
    frames: tuple[Annotated[int, Field(ge=1, le=128)], ...] | None = Field(
        None, min_length=1, description="the first at every width, the others changed alone; default: all, half of them"
    )
    sizes: tuple[Annotated[int, Field(ge=8, le=512)], ...] | None = Field(
        None, min_length=1, description="heights and widths of the input, as frames; default: the clip's"
    )
    ways: dict[Name, TrainingOverrides] = Field(
        {},
        description="ways of distilling that every kept student is also tried in, by the name that it gets; each as a "
        "student's `training`",
    )


class ScheduleSettings(RecipeSection):
    """Which cascades are tried: each path names the assistants between teacher and student, [] is direct."""

    paths: tuple[tuple[Name, ...], ...] | None = Field(
        None, description="default: direct, and through all assistants; with halving: through any of them, in order"
    )
    controls: tuple[Literal["alone", "kd"], ...] = Field(
        ("alone",), description="the same students trained without the method, for the report: never chosen"
    )
    search: Literal["exhaustive", "halving"] | None = Field(
        None, description="all cascades, or successive halving of the students; default: halving where any are 'auto'"
    )
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.25,), description="halving: shares of a student's epochs after which the better part goes on, rising"
    )
    eta: float = Field(2.0, gt=1, le=16, description="halving: one of so many goes on")
    keep: int = Field(1, ge=1, le=64, description="halving: at least so many students are trained to the end")
    share: Share = Field(
        0.35, description="halving: no cascade is opened beyond this share of the seconds of training them all; 0: none"
    )
    max_seconds: float | None = Field(None, gt=0, description="halving: nor beyond so many seconds of training")
    max_jobs: int | None = Field(None, ge=1, description="halving: nor beyond so many jobs")


class ExportSettings(RecipeSection):
    """Which files each student becomes."""

    precisions: tuple[Precision, ...] = Field(
        ("fp32", "int8"),
        min_length=1,
        description="fp32; int8: for ONNX Runtime and OpenVINO on CPUs; fp16 and int8-trt (symmetric): for TensorRT",
    )
    contract: Literal["clip", "frames"] = Field(
        "clip",
        description="what a file takes: normalised float clips (B,3,T,H,W), or uint8 frames (B,T,H,W,3), which it "
        "normalises itself",
    )
    frame_size: tuple[Pixels, Pixels] | None = Field(
        None, description="height and width of the frames that the file fits to `clip.size` itself (contract: frames)"
    )
    calibration_clips: int = Field(128, ge=0, le=10_000, description="training clips that INT8 calibration sees")
    int8_agreement: Share = Field(0.98, description="top-1 agreement with FP32 that an INT8 file must reach ...")
    int8_drop: float = Field(1.0, ge=0, le=100, description="... or the accuracy drop, in points, it may cost")
    qat_epochs: int = Field(
        0,
        ge=0,
        le=100,
        description="epochs that a student goes on for, rounded as INT8, with its teacher, where its INT8 file cannot "
        "reach these bounds otherwise; 0: never",
    )
    litert: bool = Field(
        False,
        description="also put the chosen student into the bundle as a .tflite file for LiteRT (FP32, contract: clip; "
        "its converter is no part of an extra: docs/precision.md)",
    )
    sample_clips: int = Field(0, ge=0, le=64, description="validation clips copied into the bundle (opt-in)")


class BenchmarkSettings(RecipeSection):
    """How the scale weighs."""

    runtime: Runtimes = Field(
        ("ort",),
        description="what runs the files: measured, scored and shipped on; of a list, [ort, openvino], each file is a "
        "candidate on every one, and the first runs the teacher's",
    )
    threads: int = Field(1, ge=1, le=256)
    processes: int = Field(5, ge=1, le=50)
    queries: int = Field(240, ge=20, le=100_000, description="single-stream queries a process")
    host: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+@:%-]*$",
        max_length=255,
        description="the device that measures, as ssh takes it: user@device; default: this machine",
    )


class RejectSettings(RecipeSection):
    """Clips that a file is not sure of get no class, or the background class: a threshold set on validation."""

    accuracy: Share = Field(0.95, description="share of right answers among those given, on the validation clips")
    background: str | None = Field(None, description="the class that an unsure clip is given; default: no class")


_BUDGET_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|x\s*teacher)\s*$")


class SelectionRule(RecipeSection):
    """Choice by accuracy per millisecond (design.md): constraints first, then budget or exchange rate."""

    budget: str | None = Field(None, description="latency (p50) a candidate may take: '8 ms' or '0.5 x teacher'")
    margin: float = Field(1.0, ge=0, le=100, description="non-inferiority margin, accuracy points")
    exchange: float = Field(0.5, ge=0, description="accuracy points that +10 % milliseconds must earn (no budget)")
    min_accuracy: Share | None = None
    min_macro_f1: Share | None = None
    max_megabytes: float | None = Field(None, gt=0)
    max_joules: float | None = Field(
        None, gt=0, description="joules a clip may take above the idle machine's, where the device has an energy meter"
    )
    reject: RejectSettings | None = Field(
        None, description="answer only where the network is sure enough; default: always"
    )

    @field_validator("budget")
    @classmethod
    def _check_budget_text(cls, value: str | None) -> str | None:
        if value is not None and (not (m := _BUDGET_PATTERN.match(value)) or float(m.group(1)) <= 0):
            raise ValueError(f"a budget reads '8 ms' or '0.5 x teacher', not {value!r}")
        return value

    @property
    def has_relative_budget(self) -> bool:
        """Whether the budget is a multiple of the teacher's latency."""
        return self.budget is not None and "teacher" in self.budget

    def budget_ms(self, teacher_ms: float) -> float | None:
        """The budget in milliseconds, given the teacher's p50 on the same device; None without a budget."""
        if self.budget is None or not (m := _BUDGET_PATTERN.match(self.budget)):
            return None
        return float(m.group(1)) * (1.0 if m.group(2) == "ms" else teacher_ms)


class Licences(RecipeSection):
    """What the manifest says about where data and weights come from."""

    data: str = "not stated"
    weights: str = "not stated"
