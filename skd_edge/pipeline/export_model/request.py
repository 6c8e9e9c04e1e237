"""`ExportRequest`: the validated options of ``skd-edge export``, with defaults from a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from skd_bench.errors import UsageError
from skd_bench.listing.folder_walk import PictureFolders
from skd_edge.pipeline.export_model.sources import is_factory, parse_recipe_section
from skd_edge.recipe.data import FolderData
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.recipe.sections import ClipSettings, Licences


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        source: A checkpoint of a built-in family, or a factory, ``package.module:callable``.
        network: The checkpoint's spec; not used for a factory.
        clip: Frames, size and sampling of the network's input.
        name: Name of the bundle, and stem of its files.
        classes: Class names in the order of the logits. Empty: the names of the clips' folders where their number fits,
            else ``class 0``, ``class 1`` ...
        precisions: Precisions to export, e.g. ``fp32`` and ``int8``.
        clips: A folder of real videos; without it nothing is compared, and INT8 cannot be calibrated.
        pictures: Whether folders of pictures are clips beside videos, as in a recipe (``data.pictures``).
        calibration: How many of these clips calibrate INT8; the others are compared.
        most: How many of these videos are read at most.
        allow_code: Whether the factory may run.
        arguments: Keyword arguments of the factory.
        takes: Input layout of the factory's network, see `Adapter`.
        weights: A file of tensors that is loaded into the factory's network.
        licences: Licences for the manifest.
        contract: Input of a file: ``clip`` (normalised, float32) or ``frames`` (uint8), as in a recipe.
        int8_agreement: Share of clips (0 to 1) for which an INT8 file must give the same class as the network, ...
        int8_drop: ... or else the accuracy points that it may lose. Otherwise, layers with large errors stay in FP32.
        litert: Whether a .tflite file (FP32, float clips, batch 1) is exported as well.
    """

    source: str
    network: NetworkSpec
    clip: ClipSettings
    name: str
    classes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    clips: Path | None = None
    pictures: PictureFolders = "auto"
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

    @property
    def needs_calibration(self) -> bool:
        """Whether a precision needs clips that determine its ranges."""
        return not {"int8", "int8-trt", "fp8"}.isdisjoint(self.precisions)


def make_export_request(
    source: str,
    *,
    recipe: Recipe | None,
    network: dict[str, Any],
    clip: dict[str, Any],
    member: str | None,
    **options: Any,
) -> ExportRequest:
    """Build a request from command-line options; None means that an option was not given.

    Args:
        source: see `ExportRequest`.
        recipe: gives defaults for the clip, spec, contract, INT8 bounds and licences, and `pictures`.
        network: options of the spec, by name.
        clip: options of the clip, by name.
        member: name of the network in ``recipe``.
        options: further fields of `ExportRequest`, by name.

    Raises:
        UsageError: A value is not valid, or the recipe has no network of that name.
    """
    spec: dict[str, Any] = {"name": "network"}
    if recipe is not None:
        names = recipe.networks
        if member not in names:
            raise UsageError(f"--network {member!r} is not a network of the recipe; choose from {', '.join(names)}")
        spec = {k: v for k, v in names[member].model_dump().items() if k in NetworkSpec.model_fields}
        clip = recipe.clip.model_dump() | {k: v for k, v in clip.items() if v is not None}
        recipe_defaults = {k: getattr(recipe.export, k) for k in ("contract", "int8_agreement", "int8_drop", "litert")}
        options = recipe_defaults | {k: v for k, v in options.items() if v} | {"licences": recipe.licences}
        if isinstance(recipe.data, FolderData):
            options["pictures"] = recipe.data.pictures
    network_spec = parse_recipe_section(NetworkSpec, spec | {k: v for k, v in network.items() if v is not None})
    stem = source.rpartition(":")[2] if is_factory(source) else Path(source).stem
    set_options = {k: v for k, v in options.items() if v is not None}
    return ExportRequest(
        source, network_spec, parse_recipe_section(ClipSettings, clip), **({"name": member or stem} | set_options)
    )
