"""What a recipe may say of its networks: the own families, and teachers made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, JsonValue, model_validator

from skd_edge.recipe.base import Name, RecipeSection, Share, exclude_when_default
from skd_edge.recipe.training import TrainingOverrides

Layout = Literal["BCTHW", "BTCHW", "BTHWC", "FCHW", "FHWC", "BTNC", "BNC", "BMC", "FNC", "NBC", "BCT", "FC"]
Family = Literal["resnet", "mobile", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]
Source = Literal["factory", "hub", "torchvision", "timm", "onnx", "logits", "ensemble"]
_LATER_SETTINGS = ("causal", "start", "frames", "size")  # settings that came later than the first jobs
DEFAULT_SUBSTAGE_COUNT = 4  # substages of networks that need not name them


class NetworkSpec(RecipeSection):
    """A network of the own families, cut into substages (one per entry of ``depths``; EfficientNet-Lite has four)."""

    name: Name
    family: Family = "mobile"
    width: int = Field(16, ge=4, le=512, description="channels of the first substage; each next one doubles")
    depths: tuple[Annotated[int, Field(ge=1, le=32)], ...] = Field((1, 1, 1, 1), min_length=1, max_length=6)
    temporal: Literal["none", "shift", "conv"] = "conv"
    expand: int = Field(2, ge=1, le=6, description="expansion of the inverted residuals (mobile)")
    causal: bool = Field(
        False, description="time flows one way: a frame sees none that come later, so that the student can also stream"
    )
    start: Literal["seed", "imagenet"] = Field(
        "seed", description="first weights: drawn from the seed, or ImageNet's (efficientnet-lite; extra [weights])"
    )

    frames: int | None = Field(
        None, ge=1, le=128, description="looks at this many of the clip's frames, evenly picked; default: all"
    )
    size: int | None = Field(
        None, ge=8, le=512, description="looks at the clip shrunk to this height and width; default: as it is"
    )

    training: TrainingOverrides | None = Field(
        None,
        exclude_if=exclude_when_default(None),
        description="how this one is distilled, where that differs from the recipe's `training`: combination, match, "
        "prefix, dense, losses",
    )

    @property
    def substage_count(self) -> int:
        """K: how many substages the network has."""
        return len(self.depths)

    @property
    def architecture(self) -> dict[str, object]:
        """What decides the network but its weights: names jobs, so nothing else may be in it."""
        unset = (key for key in _LATER_SETTINGS if getattr(self, key) == NetworkSpec.model_fields[key].default)
        excluded = {"name", "training", *unset}  # at rest, what came later renames no job
        return self.model_dump(include=set(NetworkSpec.model_fields) - excluded)

    @model_validator(mode="after")
    def _check_family_settings(self) -> NetworkSpec:
        if self.family in ("resnet", "mobile"):
            if self.start == "imagenet":
                raise ValueError(
                    f"{self.name}: start: imagenet is for the families efficientnet-lite0 to 2, whose weights come in "
                    f"the extra [weights]; {self.family} starts from the seed"
                )
            return self
        for key in ("width", "depths", "expand", "causal", "frames", "size"):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{self.name}: {key} is fixed in {self.family}; remove it, or choose resnet or mobile")
        return self


class TeacherClip(RecipeSection):
    """What a teacher made elsewhere wants its input to be, where it is not what ``clip`` gives the students."""

    frames: int | None = Field(None, ge=1, le=128, description="frames; those of the clip are repeated or left out")
    size: int | None = Field(None, ge=16, le=512, description="height and width, pixels; the clip is resized")
    mean: tuple[float, float, float] | None = Field(None, description="subtracted from each channel (0 to 1)")
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = (
        Field(None, description="each channel is divided by it")
    )


_SOURCES: tuple[Source, ...] = get_args(Source)
_FAMILY_KEYS = ("family", "width", "depths", "temporal", "expand", "causal", "start", "frames", "size")
_ADAPTER_KEYS = ("substages", "layout", "tubelet", "clip")  # how a network is cut, and what it is given
# Keys that describe a teacher made elsewhere, and for which kinds of it.
_SOURCES_BY_KEY: dict[str, tuple[Source, ...]] = {
    "arguments": ("factory",),
    "code": ("factory",),
    "revision": ("hub",),
    "trained": ("factory", "hub"),
    "pretrained": ("torchvision", "timm"),
    "checkpoint": ("factory", "hub", "torchvision", "timm"),
    "input": ("factory", "hub", "onnx"),
    "classes": ("factory", "hub", "torchvision", "timm", "onnx", "logits"),
    **dict.fromkeys(_ADAPTER_KEYS, ("factory", "hub", "torchvision", "timm", "onnx")),
}


class SingleTeacher(NetworkSpec):
    """A network of an ensemble: everything that a teacher may be but an ensemble; it learns nothing here."""

    name: Name = "teacher"
    family: Family = "resnet"
    width: int = Field(32, ge=4, le=512)
    checkpoint: Path | None = Field(None, description="weights of this very network: safetensors, or a .pt state_dict")
    factory: str | None = Field(
        None,
        pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*$",
        description="package.module:callable that returns the network; instead of family, width, depths, temporal",
    )
    arguments: dict[str, JsonValue] = Field({}, description="keyword arguments of the factory")
    code: Path | None = Field(None, description="folder of the factory's module, beside Python's path; the recipe's")
    hub: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="a transformers video model: its folder, or its name on the hub (extra [hub]; safetensors only)",
    )
    revision: str | None = Field(None, pattern=r"^[\w./-]{1,200}$", description="commit or tag of the name on the hub")
    torchvision: str | None = Field(None, pattern=r"^\w{1,64}$", description="a video model of torchvision: r3d_18")
    timm: str | None = Field(
        None, pattern=r"^[\w.]{1,128}$", description="a 2-D backbone of timm, given a temporal shift: resnet18"
    )
    onnx: Path | None = Field(None, description="an ONNX file, which ONNX Runtime asks; it learns nothing here")
    logits: Path | None = Field(
        None, description="what a teacher said of the plain clips, by clip: .npz or .parquet; instead of a network"
    )
    trained: bool = Field(
        False, description="the factory, or the hub's model, comes trained on these classes: it learns nothing here"
    )
    pretrained: Path | None = Field(
        None, description="weights that it starts to learn from; tensors of another shape (the head) are left out"
    )
    classes: tuple[str, ...] = Field(
        (), description="names of its logits in their order, where they are not the data's: matched by name"
    )
    substages: tuple[str, ...] = Field(
        (),
        max_length=6,
        description="dotted names of the modules whose outputs end the substages (onnx: names of tensors); common "
        "networks need none",
    )
    input: Literal["clip", "frames-first", "frames"] | None = Field(
        None, description="its forward takes (B,3,T,H,W) (default), (B,T,3,H,W), or (B*T,3,H,W), its logits averaged"
    )
    layout: Layout | None = Field(
        None,
        description="axes of the substages' outputs (F: B*T frames, N: tokens, M: tokens with time innermost); else "
        "told by their shape",
    )
    tubelet: int | None = Field(None, ge=1, le=128, description="frames that a token spans; else told by shape")
    clip: TeacherClip | None = Field(None, description="what the teacher's network wants, where it is not `clip`")

    def __hash__(self) -> int:  # the arguments, a dict, have none
        return hash((self.name, self.source, self.substages, self.width, self.depths))

    @property
    def factory_module(self) -> str:
        """The module that the factory is in; empty without one."""
        return (self.factory or "").partition(":")[0]

    @property
    def source(self) -> Source | None:
        """Where a teacher made elsewhere comes from; None for the own families."""
        return next((key for key in _SOURCES if getattr(self, key, None)), None)

    @property
    def is_scalable(self) -> bool:
        """Whether its width says how large it is: then smaller ones can be proposed."""
        return self.source is None and self.family in ("resnet", "mobile")

    @property
    def is_trained_here(self) -> bool:
        """Whether it is trained here; else it comes with its weights, or with its answers."""
        return not (self.checkpoint or self.trained or self.source in ("onnx", "logits", "ensemble"))

    @property
    def substage_count(self) -> int:
        """K: how many substages the network has; 0 where only its logits teach."""
        if self.source is None:
            return len(self.depths)
        ready = DEFAULT_SUBSTAGE_COUNT if self.source in ("hub", "torchvision", "timm") else 0
        return len(self.substages) or ready

    @property
    def architecture(self) -> dict[str, object]:
        """What decides the network but its weights: names jobs, so nothing else may be in it.

        Of files, only that there is one: what they hold is hashed beside it (``identity`` in models/elsewhere.py).
        """
        if self.source is None:
            return super().architecture
        described = self.model_dump(include={"arguments", *_ADAPTER_KEYS}) | {
            "input": self.input or "clip",
            "factory": self.factory,
        }
        if self.source == "factory":
            return described | ({"classes": self.classes} if self.classes else {})
        named = {self.source: getattr(self, self.source) if self.source in ("torchvision", "timm") else True}
        return described | named | {"classes": self.classes}

    @model_validator(mode="after")
    def _check_source_settings(self) -> SingleTeacher:
        kinds = [key for key in _SOURCES if getattr(self, key, None)]
        if len(kinds) > 1:
            raise ValueError(
                f"teacher.{kinds[0]} and teacher.{kinds[1]} are two teachers; remove one (or see ensemble)"
            )
        source = self.source
        for key in (*(_FAMILY_KEYS if source else ()), *_SOURCES_BY_KEY):
            if getattr(self, key) == type(self).model_fields[key].default:
                continue
            if source and key in _FAMILY_KEYS:
                raise ValueError(
                    f"teacher.{key} describes the own family, and teacher.{source} is given; remove one of them"
                )
            if (
                key in _SOURCES_BY_KEY
                and source not in _SOURCES_BY_KEY[key]
                and not (source is None and key == "checkpoint")
            ):
                raise ValueError(
                    f"teacher.{key} is for a network made by a factory, or made elsewhere otherwise "
                    f"({', '.join(_SOURCES_BY_KEY[key])}), and {'no such teacher' if source is None else 'teacher.' + source} "
                    "is given; remove one of them"
                )
        self._check_substages_and_classes()
        return self

    def _check_substages_and_classes(self) -> None:
        if self.factory and not self.substages:
            raise ValueError("teacher.substages is missing: name the factory's modules whose outputs end the substages")
        if twice := [name for name in self.substages if self.substages.count(name) > 1]:
            raise ValueError(f"teacher.substages names {twice[0]!r} twice; each substage ends at another module")
        if twice := [name for name in self.classes if self.classes.count(name) > 1]:
            raise ValueError(f"teacher.classes names {twice[0]!r} twice")
        if self.classes and self.is_trained_here:
            raise ValueError("teacher.classes is for a teacher that comes trained; one that learns here has the data's")


class Teacher(SingleTeacher):
    """The largest network: trained here on the weak labels, or given; of the own families, or made elsewhere.

    Made elsewhere: a video model of transformers (``hub``) or ``torchvision``, a 2-D backbone of ``timm``, an ``onnx``
    file, a file of ``logits``, an ``ensemble``, or any ``torch.nn.Module`` that the Python callable ``factory``
    returns. Only the last runs somebody's code, so ``compress`` and ``plan`` then need ``--allow-code``.
    """

    floor: Share = Field(0.0, description="stop before distilling when the teacher's validation accuracy is below")
    ensemble: tuple[SingleTeacher, ...] = Field(
        (), max_length=16, description="trained teachers whose answers are averaged; the first one's substages teach"
    )
    average: Literal["probabilities", "logits"] = Field("probabilities", description="what an ensemble averages")

    __hash__ = SingleTeacher.__hash__

    @property
    def substage_count(self) -> int:
        """K: how many substages the network has; 0 where only its logits teach."""
        return self.ensemble[0].substage_count if self.ensemble else super().substage_count

    @property
    def architecture(self) -> dict[str, object]:
        """What decides the network but its weights: names jobs, so nothing else may be in it."""
        if not self.ensemble:
            return super().architecture
        return {"ensemble": [member.architecture for member in self.ensemble], "average": self.average}

    @property
    def members(self) -> tuple[SingleTeacher, ...]:
        """The networks that it is made of: an ensemble's, or itself alone."""
        return self.ensemble or (self,)

    @model_validator(mode="after")
    def _check_ensemble(self) -> Teacher:
        if self.training is not None:
            raise ValueError("teacher.training says how a learner is distilled, and the teacher is none; remove it")
        if len(self.ensemble) == 1:
            raise ValueError("teacher.ensemble has one member; give two or more, or describe it as the teacher itself")
        for number, member in enumerate(self.ensemble):
            if member.logits:
                raise ValueError(f"teacher.ensemble.{number} is a file of logits; average the files' logits into one")
            if member.is_trained_here:
                raise ValueError(
                    f"teacher.ensemble.{number} would have to be trained first; give its checkpoint, or trained: true"
                )
        if not self.ensemble and self.average != "probabilities":
            raise ValueError("teacher.average is for an ensemble; remove it")
        return self
