"""Building the network that a recipe describes: one of the built-in families, or an external one."""

from __future__ import annotations

from collections.abc import Sequence

from skd_edge.models.efficientnet import EfficientNetLite, build_efficientnet_lite
from skd_edge.models.external import loader
from skd_edge.models.external.adapter import Adapter
from skd_edge.models.external.ensemble import Ensemble
from skd_edge.models.external.factory import allow_recipe_code
from skd_edge.models.external.logits_file import read_logits_file
from skd_edge.models.mobilenet import MobileNet, build_mobilenet
from skd_edge.models.tsm import TSM, build_tsm
from skd_edge.models.weights import load_weights
from skd_edge.recipe.networks import MOBILE_FAMILIES, SingleTeacher
from skd_edge.recipe.schema import NetworkSpec, Recipe, Teacher
from skd_edge.recipe.sections import ClipSettings

AnyNetwork = TSM | MobileNet | EfficientNetLite | Adapter | Ensemble


def validate_networks(recipe: Recipe, *, allow_code: bool) -> None:
    """Allow the factories of a recipe to run, and build its external networks once, before clips are read.

    Args:
        recipe: the recipe.
        allow_code: whether the user allowed the code of the factories to run.

    Raises:
        ImportError: The library that a network comes from is not installed.
        UsageError: A network comes from a factory and ``allow_code`` is False.
        UserError: A network cannot be built or read; see ``adapt_external`` and ``read_logits_file``.
    """
    allow_recipe_code(recipe, allow_code)
    teacher = recipe.teacher
    if teacher.logits:
        read_logits_file(teacher.logits, teacher.classes)
    for network in (*teacher.members, *recipe.assistants, *recipe.students):
        if network.source not in (None, "logits"):
            loader.adapt_external(network, classes=None, clip=recipe.clip, seed=recipe.seed)


def build_network(
    network: NetworkSpec, *, classes: int, clip: ClipSettings, seed: int, names: Sequence[str] = ()
) -> AnyNetwork:
    """Build the network that a recipe describes.

    Args:
        network: what to build; not a teacher given by ``logits``, which has no network.
        classes: number of classes in the dataset.
        clip: the clips that the network will get.
        seed: for the initial weights, unless the description says that they come from a file.
        names: the dataset's class names, for a teacher with its own class list.

    Raises:
        ImportError: The library that the network comes from is not installed.
        UsageError: The network comes from a factory that was not allowed to run (see ``allow_factory_code``).
        UserError: The network cannot be built; see ``adapt_external``.
    """
    if isinstance(network, Teacher) and network.ensemble:
        members = [_build_member(m, classes=classes, clip=clip, seed=seed, names=names) for m in network.ensemble]
        return Ensemble(list(members), network.average)
    if network.source:
        return loader.adapt_external(network, classes=classes, clip=clip, seed=seed, names=names)
    if network.family in MOBILE_FAMILIES:
        return build_mobilenet(network, classes=classes, clip=clip, seed=seed)
    if network.family not in ("resnet", "mobile"):
        return build_efficientnet_lite(network, classes=classes, clip=clip, seed=seed)
    return build_tsm(network, classes=classes, frames=clip.frames, size=clip.size, seed=seed)


def _build_member(
    member: SingleTeacher, *, classes: int, clip: ClipSettings, seed: int, names: Sequence[str]
) -> AnyNetwork:
    """Build a member of an ensemble and load its weights."""
    network = build_network(member, classes=classes, clip=clip, seed=seed, names=names)
    if member.checkpoint:
        inner = loader.unwrap_adapter(network)
        load_weights(inner, member.checkpoint, "the ensemble member that the recipe describes")
    return network
