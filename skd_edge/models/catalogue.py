"""All networks that a recipe can name, with their parameters, MACs and substages; nothing is computed or downloaded.

Networks are built on torch's ``meta`` device: shapes without numbers. MACs are multiply-accumulates of one clip, in
convolutions, matrix products and attention (half of what torch's counter calls floating-point operations).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from skd_edge.models.builder import build_network
from skd_edge.models.external.adapter import Adapter
from skd_edge.models.external.factory import permit
from skd_edge.models.external.torchvision_timm import TORCHVISION
from skd_edge.recipe.schema import Clip, Member, Network, Recipe, Teacher

CLASSES = 10
_TIMM = ("resnet18", "resnet50", "regnety_008", "mobilenetv2_100", "mobilenetv3_large_100", "convnext_tiny")
_HUB = {
    "VideoMAE": ("VideoMAEConfig", {}),
    "TimeSformer": ("TimesformerConfig", {}),
    "ViViT": ("VivitConfig", {}),
    "V-JEPA 2": ("VJEPA2Config", {"frames_per_clip": 16}),
}


@dataclass(frozen=True)
class Entry:
    """One network.

    Attributes:
        name: as a recipe says it.
        clip: frames, height and width that it is given.
        parameters: number of weights.
        macs: multiply-accumulates of one clip.
        substages: channels and time steps of each substage's features, first substage first.
        missing: why it cannot be looked at here (a package that is not installed), or None; the numbers are then 0.
    """

    name: str
    clip: tuple[int, int, int]
    parameters: int = 0
    macs: int = 0
    substages: tuple[tuple[int, int], ...] = ()
    missing: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def to_text(self) -> str:
        """One line for the screen."""
        if self.missing:
            return f"{self.name:<42} {self.missing}"
        frames, height, width = self.clip
        shapes = " ".join(f"{c}x{t}" for c, t in self.substages) or "none"
        return (f"{self.name:<42} {f'{frames}x{height}x{width}':>11} {self.parameters / 1e6:>9.3f} M "
                f"{self.macs / 1e9:>10.4f} G  {shapes}")  # fmt: skip


HEAD = f"{'network':<42} {'clip':>11} {'parameters':>11} {'MACs':>12}  substages (channels x time steps)"


def catalogue(recipe: Recipe | None = None, *, allow_code: bool = False) -> Iterator[Entry]:
    """Every network that is ready to be named, at a usual size; with a recipe, its own networks at its own clip.

    Args:
        recipe: whose networks; None: those that are ready.
        allow_code: whether the recipe's ``teacher.factory``, somebody's code, may run.

    Yields:
        One entry a network; one that needs a package which is not here says which.

    Raises:
        UsageError: The recipe names code and ``allow_code`` is False.
        UserError: A network of the recipe cannot be built.
    """
    if recipe is not None:
        permit(recipe.teacher, allow_code)
        for network in recipe.networks.values():
            yield look(network.name, network, recipe.clip)
        return
    small, large = Clip(frames=8, size=112), Clip(frames=16, size=224)
    for family, widths in (("mobile", (8, 16, 24)), ("resnet", (16, 32, 64))):
        for width in widths:
            spec = Network(name="n", family=family, width=width)
            yield look(f"family: {family}, width: {width}", spec, small)
    for size in range(3):
        spec = Network(name="n", family=f"efficientnet-lite{size}")
        yield look(f"family: efficientnet-lite{size}", spec, small)
    for name in TORCHVISION:
        yield look(f"torchvision: {name}", Teacher(torchvision=name), large.model_copy(update={"size": 112}))
    for name in _TIMM:
        yield look(f"timm: {name}", Teacher(timm=name), Clip(frames=8, size=224))
    for name in _HUB:
        yield _of_hub(name, large)


def look(name: str, network: Network, clip: Clip, build: Callable[[], nn.Module] | None = None) -> Entry:
    """One network, looked at on the meta device (an ONNX file is asked for real: it has no other).

    Raises:
        UserError: It cannot be built.
    """
    entry = Entry(name, (clip.frames, clip.size, clip.size))
    if isinstance(network, Member) and network.logits:
        return replace(entry, missing="a file of logits, no network")
    files = isinstance(network, Teacher) and any(m.onnx for m in network.members)
    unread = {"start": "seed"} | ({"pretrained": None} if isinstance(network, Member) else {})
    device = torch.device("cpu" if files else "meta")
    try:
        with device:
            built = build() if build else build_network(
                network.model_copy(update=unread), classes=CLASSES, clip=clip, seed=0
            )  # fmt: skip
            built.eval()
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                said = built(torch.zeros(1, 3, clip.frames, clip.size, clip.size))
    except ImportError as error:
        package = (error.name or "a package").split(".")[0]
        return replace(entry, missing=f"needs {package}")
    wants = getattr(built, "wants", clip)
    return replace(
        entry,
        clip=(wants.frames, wants.size, wants.size),
        parameters=sum(p.numel() for p in built.parameters()),
        macs=counter.get_total_flops() // 2,
        substages=tuple((f.shape[2], f.shape[1]) for f in said.features),
    )


def _of_hub(name: str, clip: Clip) -> Entry:
    """A model of transformers as its library's own defaults describe it, without weights."""
    config, changed = _HUB[name]

    def build() -> nn.Module:
        from skd_edge.models.external.huggingface import import_transformers, spec_of

        transformers = import_transformers()
        described = getattr(transformers, config)(num_labels=CLASSES, **changed)
        network = transformers.AutoModelForVideoClassification.from_config(described)
        spec = spec_of(network, described, {})
        wants = clip.model_copy(update=spec.clip.model_dump(exclude_none=True))
        return Adapter(network, spec.substages, clip=clip, wants=wants, takes=spec.takes, layout=spec.layout,
                       tubelet=spec.tubelet)  # fmt: skip

    return look(f"hub: (a {name}, base size)", Network(name="n"), clip, build)


def lines(entries: Iterable[Entry]) -> Iterator[str]:
    """A table for the screen, line by line as the networks are looked at."""
    yield HEAD
    yield from (entry.to_text() for entry in entries)
    yield f"\nMACs are of one clip, with {CLASSES} classes; a teacher made elsewhere is given the clips that it wants."
