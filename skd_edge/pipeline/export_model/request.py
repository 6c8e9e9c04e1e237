"""What ``skd-edge export`` was given, checked and completed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skd_bench.errors import UsageError
from skd_edge.pipeline.export_model.sources import (
    is_factory,
    parse_recipe_section,
)
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.recipe.sections import ClipSettings, Licences

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        source: A checkpoint of the own family, or ``package.module:callable``.
        network: The checkpoint's spec; a factory needs none.
        clip: What the network is given.
        name: Of the bundle and of its files.
        classes: Class names in the order of the logits; empty: the clips' folders where they fit, else numbers.
        precisions: Of the files.
        clips: A folder of real videos; without one nothing is compared and nothing is calibrated.
        calibration: How many of them INT8 calibration sees; the others are compared.
        most: How many of them are read.
        allow_code: Whether the factory may run.
        arguments: Of the factory.
        takes: What the factory's network takes.
        weights: A file of tensors for the factory's network.
        licences: For the manifest.
        contract: What a file takes: ``clip`` (normalised, float32) or ``frames`` (uint8), as in a recipe.
        int8_agreement: Agreement with the network that an INT8 file must reach ...
        int8_drop: ... or points of accuracy that it may cost; else its costliest layers stay in FP32.
        litert: Whether a .tflite file (FP32, float clips, one at a time) is made as well.
    """

    source: str
    network: NetworkSpec
    clip: ClipSettings
    name: str
    classes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    clips: Path | None = None
    calibration: int = 128
    most: int = 1024
    allow_code: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    takes: str = "clip"
    weights: Path | None = None
    licences: Licences = field(default_factory=Licences)
    contract: Literal["clip", "frames"] = "clip"
    int8_agreement: float = 0.98
    int8_drop: float = 1.0
    litert: bool = False


def make_export_request(
    source: str,
    *,
    recipe: Recipe | None,
    network: dict[str, Any],
    clip: dict[str, Any],
    member: str | None,
    **options: Any,
) -> ExportRequest:
    """A request from command-line options; a recipe gives the defaults of clip, spec, contract, INT8 bounds, licences.

    Raises:
        UsageError: A value cannot be, or the recipe has no network of that name.
    """
    spec: dict[str, Any] = {"name": "network"}
    if recipe is not None:
        names = recipe.networks
        if member not in names:
            raise UsageError(f"--network names one of the recipe's networks ({', '.join(names)}), not {member!r}")
        spec = {k: v for k, v in names[member].model_dump().items() if k in NetworkSpec.model_fields}
        clip = recipe.clip.model_dump() | {k: v for k, v in clip.items() if v is not None}
        recipe_defaults = {k: getattr(recipe.export, k) for k in ("contract", "int8_agreement", "int8_drop", "litert")}
        options = recipe_defaults | {k: v for k, v in options.items() if v} | {"licences": recipe.licences}
    network_spec = parse_recipe_section(NetworkSpec, spec | {k: v for k, v in network.items() if v is not None})
    stem = source.rpartition(":")[2] if is_factory(source) else Path(source).stem
    set_options = {k: v for k, v in options.items() if v is not None}
    return ExportRequest(
        source, network_spec, parse_recipe_section(ClipSettings, clip), **({"name": member or stem} | set_options)
    )
