"""A teacher made elsewhere, as a recipe names it: made, cut, its classes matched with the data's, its bytes named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_edge.models.external import factory
from skd_edge.models.external.adapter import Adapter
from skd_edge.models.external.adapter_spec import Made, Spec, columns_of
from skd_edge.recipe.networks import Member
from skd_edge.recipe.schema import Clip


def make(teacher: Member, *, classes: int | None, clip: Clip, seed: int) -> Made:
    """The network itself, its ready spec, and its class names where it knows them.

    Args:
        teacher: a teacher with a source, but ``logits`` and ``ensemble``.
        classes: how many a network that is to learn here must tell apart; None: not known yet.
        clip: the clips that come in.
        seed: what first weights are drawn from.

    Raises:
        ImportError: The library that it comes from is not installed.
        UserError: See the makers.
    """
    if teacher.hub:
        from skd_edge.models.external.huggingface import make_hub

        return make_hub(teacher, classes, seed)
    if teacher.torchvision or teacher.timm:
        from skd_edge.models.external.torchvision_timm import make_timm, make_torchvision

        if teacher.torchvision:
            return make_torchvision(teacher, classes, seed)
        return make_timm(teacher, classes, _wanted(teacher, Spec(()), clip).frames, seed)
    if teacher.onnx:
        from skd_edge.models.external.onnx_network import make_onnx

        return make_onnx(teacher)
    return Made(factory.make(teacher, seed), Spec(teacher.substages))


def adapt(teacher: Member, *, classes: int | None, clip: Clip, seed: int, names: Sequence[str] = ()) -> Adapter:
    """The network of a teacher made elsewhere, cut into substages.

    Args:
        teacher: as for ``make``; a factory must be permitted (factory.py).
        classes: how many the data has; None: not known yet, any number will do.
        clip: the clips that come in.
        seed: what its first weights are drawn from.
        names: the data's classes, where the teacher comes trained and has a list of its own.

    Raises:
        ImportError: See ``make``.
        UserError: See ``make`` and ``Adapter``; or its classes are not the data's.
    """
    made = make(teacher, classes=classes, clip=clip, seed=seed)
    spec = made.spec
    inner = spec.substages if teacher.onnx else teacher.substages or spec.substages  # onnx: names of tensors, tapped
    network = Adapter(
        made.network, inner, clip=clip, wants=_wanted(teacher, spec, clip), takes=teacher.input or spec.takes,
        layout=teacher.layout or spec.layout, tubelet=teacher.tubelet or spec.tubelet,
    )  # fmt: skip
    theirs = teacher.classes or (() if teacher.learns else made.classes)
    if theirs and len(theirs) != network.classes:
        raise UserError(f"the teacher gives {network.classes} logits and its class list has {len(theirs)} names; "
                        "teacher.classes must name each, in their order")  # fmt: skip
    if theirs and names:
        network.choose(columns_of(theirs, names))
    elif not theirs and classes is not None and network.classes != classes:
        raise UserError(
            f"the teacher of {teacher.factory or teacher.source} tells {network.classes} classes apart and the data "
            f"has {classes}; "
            + ("give the right number in teacher.arguments, with the classes in the order of their names"
               if teacher.factory else "name its logits with teacher.classes, so that they are matched by name")
        )  # fmt: skip
    return network


def identity(teacher: Member) -> str | None:
    """Names what a teacher's files hold, byte by byte; None where it has none (of a factory: see factory.py).

    Raises:
        UserError: A file cannot be read.
    """
    if teacher.hub:
        from skd_edge.models.external.huggingface import hub_hash

        return hub_hash(teacher)
    if teacher.onnx:
        from skd_edge.models.external.onnx_network import onnx_hash

        return onnx_hash(teacher.onnx)
    if teacher.logits:
        return _file(teacher.logits, "teacher.logits")
    if teacher.pretrained:
        return _file(teacher.pretrained, "teacher.pretrained")
    return None


def parts_of(network: nn.Module) -> nn.Module:
    """The network inside an adapter, whose names its checkpoints carry; any other network is itself."""
    return network.network if isinstance(network, Adapter) else network


def _file(path: Path, what: str) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}") from error


def _wanted(teacher: Member, spec: Spec, clip: Clip) -> Clip:
    """The clips that a teacher wants: the recipe's, changed by its spec, changed by ``teacher.clip``."""
    told = spec.clip.model_dump(exclude_none=True)
    told |= teacher.clip.model_dump(exclude_none=True) if teacher.clip else {}
    return clip.model_copy(update=told)
