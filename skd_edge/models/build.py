"""A network as a recipe describes it: of the own family, or a teacher made elsewhere."""

from __future__ import annotations

from skd_edge.models.adapters import Adapter, adapt
from skd_edge.models.factory import permit
from skd_edge.models.tsm import TSM, build
from skd_edge.recipe import Clip, Network, Teacher

Built = TSM | Adapter


def admit(teacher: Teacher, *, clip: Clip, seed: int, allow_code: bool) -> None:
    """Permit a teacher's factory, and build the network once: what is wrong with it is said before any clip is read.

    Raises:
        UsageError: It comes from a factory and ``allow_code`` is False.
        UserError: See ``adapt``.
    """
    permit(teacher, allow_code)
    if teacher.factory:
        adapt(teacher, classes=None, clip=clip, seed=seed)


def build_network(network: Network, *, classes: int, clip: Clip, seed: int) -> Built:
    """The network that a recipe describes, its first weights drawn from ``seed``.

    Raises:
        UsageError: It comes from a factory that was not permitted.
        UserError: See ``adapt``.
    """
    if isinstance(network, Teacher) and network.factory:
        return adapt(network, classes=classes, clip=clip, seed=seed)
    return build(network, classes=classes, frames=clip.frames, size=clip.size, seed=seed)
