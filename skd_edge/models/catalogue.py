"""The networks that a recipe can name, with their parameters, MACs and substages. Nothing is downloaded.

Networks are built on torch's ``meta`` device, which tracks shapes without computing values. MACs are the
multiply-accumulate operations for one clip in convolutions, matrix products and attention (half of the floating-point
operations that torch's ``FlopCounterMode`` reports).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from skd_edge.models.builder import build_network
from skd_edge.models.external.adapter import Adapter
from skd_edge.models.external.factory import allow_recipe_code
from skd_edge.models.external.torchvision_timm import TORCHVISION_SPECS
from skd_edge.recipe.networks import MOBILE_FAMILIES, PUBLISHED_WIDTH, Family
from skd_edge.recipe.schema import NetworkSpec, Recipe, SingleTeacher, Teacher
from skd_edge.recipe.sections import ClipSettings

CLASS_COUNT = 10
_WIDTHS: dict[Family, tuple[int, ...]] = {"mobile": (8, 16, 24), "resnet": (16, 32, 64)}
_MOBILE_WIDTHS = (8, PUBLISHED_WIDTH)
_EFFICIENTNETS: tuple[Family, ...] = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
_TORCHVISION_FRAME_NAMES = ("resnet18", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "regnet_y_400mf")
# The timm backbones that docs/students.md has tried as students.
_TIMM_NAMES = (
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "efficientnet_lite0",
    "resnet18",
    "regnety_008",
    "mobileone_s0",
    "repvit_m0_9",
    "fastvit_t8",
    "convnext_tiny",
    "resnet50",
)
_HUB_CONFIGS = {
    "VideoMAE": ("VideoMAEConfig", {}),
    "TimeSformer": ("TimesformerConfig", {}),
    "ViViT": ("VivitConfig", {}),
    "V-JEPA 2": ("VJEPA2Config", {"frames_per_clip": 16}),
}


@dataclass(frozen=True)
class CatalogueEntry:
    """One network.

    Attributes:
        name: the name, as a recipe writes it.
        clip: frames, height and width of its input.
        parameters: number of parameters.
        macs: multiply-accumulate operations for one clip.
        substages: channels and time steps of each substage's features, first substage first.
        missing: why the network could not be built here (for example a package that is not installed); the numbers are
            then 0. None if it was built.
    """

    name: str
    clip: tuple[int, int, int]
    parameters: int = 0
    macs: int = 0
    substages: tuple[tuple[int, int], ...] = ()
    missing: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry as plain data."""
        return asdict(self)

    def to_text(self) -> str:
        """The entry as one line of the printed table."""
        if self.missing:
            return f"{self.name:<42} {self.missing}"
        frames, height, width = self.clip
        shapes = " ".join(f"{c}x{t}" for c, t in self.substages) or "none"
        return (
            f"{self.name:<42} {f'{frames}x{height}x{width}':>11} {self.parameters / 1e6:>9.3f} M "
            f"{self.macs / 1e9:>10.4f} G  {shapes}"
        )


TABLE_HEADER = f"{'network':<42} {'clip':>11} {'parameters':>11} {'MACs':>12}  substages (channels x time steps)"


def iter_catalogue(recipe: Recipe | None = None, *, allow_code: bool = False) -> Iterator[CatalogueEntry]:
    """Describe every network of a recipe, or every network that a recipe can name without further files.

    Args:
        recipe: describe its networks, with its clips. None: describe all available networks, with typical clips.
        allow_code: whether the external code that the recipe's ``teacher.factory`` names may run.

    Yields:
        One entry for each network. If it needs a package that is not installed, ``missing`` names the package.

    Raises:
        UsageError: The recipe has a ``teacher.factory`` and ``allow_code`` is False.
        UserError: A network of the recipe cannot be built.
    """
    if recipe is not None:
        allow_recipe_code(recipe, allow_code)
        for network in recipe.networks.values():
            yield describe_network(network.name, network, recipe.clip)
        return
    small, large = ClipSettings(frames=8, size=112), ClipSettings(frames=16, size=224)
    for family, widths in _WIDTHS.items():
        for width in widths:
            spec = NetworkSpec(name="n", family=family, width=width)
            yield describe_network(f"family: {family}, width: {width}", spec, small)
    for family in MOBILE_FAMILIES:
        for width in _MOBILE_WIDTHS:
            spec = NetworkSpec(name="n", family=family, width=width)
            yield describe_network(f"family: {family}, width: {width}", spec, small)
    for family in _EFFICIENTNETS:
        yield describe_network(f"family: {family}", NetworkSpec(name="n", family=family), small)
    for name in TORCHVISION_SPECS:
        clip = large.model_copy(update={"size": 112})
        yield describe_network(f"torchvision: {name}", Teacher(torchvision=name), clip)
    for name in _TORCHVISION_FRAME_NAMES:
        yield describe_network(f"torchvision: {name}", NetworkSpec(name="n", torchvision=name), small)
    for name in _TIMM_NAMES:
        yield describe_network(f"timm: {name}", Teacher(timm=name), ClipSettings(frames=8, size=224))
    for name in _HUB_CONFIGS:
        yield _describe_hub_network(name, large)


def without_weight_files(network: NetworkSpec) -> NetworkSpec:
    """The same network with random weights; its files may be absent or large, and what depends on shapes needs none."""
    return network.model_copy(update={"start": "seed", "pretrained": None})


def describe_network(
    name: str, network: NetworkSpec, clip: ClipSettings, builder: Callable[[], nn.Module] | None = None
) -> CatalogueEntry:
    """Describe one network; it runs on the meta device (an ONNX file on the CPU, because it cannot run on meta).

    Args:
        name: the entry's name.
        network: the recipe's description.
        clip: the clips of the recipe.
        builder: builds the network; None: it is built from the description.

    Raises:
        UserError: The network cannot be built.
    """
    entry = CatalogueEntry(name, (clip.frames, clip.size, clip.size))
    if isinstance(network, SingleTeacher) and network.logits:
        return replace(entry, missing="a file of logits, not a network")
    has_onnx = isinstance(network, Teacher) and any(m.onnx for m in network.members)
    build = builder or partial(build_network, without_weight_files(network), classes=CLASS_COUNT, clip=clip, seed=0)
    try:
        try:
            model, output, macs = _count_macs(build, clip, "cpu" if has_onnx else "meta")
        except NotImplementedError:  # its code needs values while it is built
            model, output, macs = _count_macs(build, clip, "cpu")
    except ImportError as error:
        package = (error.name or "a package").split(".")[0]
        return replace(entry, missing=f"needs {package}")
    expected_clip = getattr(model, "expected_clip", clip)
    return replace(
        entry,
        clip=(expected_clip.frames, expected_clip.size, expected_clip.size),
        parameters=sum(p.numel() for p in model.parameters()),
        macs=macs,
        substages=tuple((f.shape[2], f.shape[1]) for f in output.features),
    )


def _count_macs(build: Callable[[], nn.Module], clip: ClipSettings, device: str) -> tuple[nn.Module, Any, int]:
    """Build a network and run one clip; the network, its output and the multiply-accumulate operations."""
    with torch.device(device):
        model = build().eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            output = model(torch.zeros(1, 3, clip.frames, clip.size, clip.size))
    return model, output, counter.get_total_flops() // 2


def _describe_hub_network(name: str, clip: ClipSettings) -> CatalogueEntry:
    """Describe a model of transformers with the library's default configuration, without weights."""
    config, changed = _HUB_CONFIGS[name]

    def build_from_config() -> nn.Module:
        from skd_edge.models.external.huggingface import import_transformers, make_adapter_spec

        transformers = import_transformers()
        described = getattr(transformers, config)(num_labels=CLASS_COUNT, **changed)
        network = transformers.AutoModelForVideoClassification.from_config(described)
        spec = make_adapter_spec(network, described, {})
        expected_clip = clip.model_copy(update=spec.clip.model_dump(exclude_none=True))
        return Adapter(
            network,
            spec.substages,
            clip=clip,
            expected_clip=expected_clip,
            input_layout=spec.input_layout,
            layout=spec.layout,
            tubelet=spec.tubelet,
        )

    return describe_network(f"hub: (a {name}, base size)", NetworkSpec(name="n"), clip, build_from_config)


def iter_table_lines(entries: Iterable[CatalogueEntry]) -> Iterator[str]:
    """The lines of the printed table, each as soon as its network is described."""
    yield TABLE_HEADER
    yield from (entry.to_text() for entry in entries)
    yield f"\nMACs are for one clip and {CLASS_COUNT} classes; an external teacher gets the clips that it needs."
