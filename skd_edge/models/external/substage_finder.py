"""Finds the modules that end the substages of a 2-D network that the recipe does not divide.

Nearly all image networks shrink their maps step by step, in a chain of modules. A substage ends where the chain next
shrinks the map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skd_edge.models.external.adapter_spec import compute_equal_run_ends
from skd_edge.recipe.networks import DEFAULT_SUBSTAGE_COUNT

_PROBE_SIZE = 64  # pixels: enough for five halvings


def find_substages(network: nn.Module, count: int = DEFAULT_SUBSTAGE_COUNT) -> tuple[str, ...]:
    """Find the modules that end the last ``count`` substages.

    A network of timm says itself where it shrinks its maps. Of any other network, the chains of modules are tried: the
    children of the network, and those of each ``nn.Sequential`` or ``nn.ModuleList`` in it.

    Args:
        network: takes frames ``(N, 3, H, W)``; neither its weights nor its mode is changed.
        count: K, the number of substages.

    Returns:
        The modules' dotted names, first substage first; empty if the network has no chain with so many sizes, or cannot
        run on frames.
    """
    if hasattr(network, "feature_info"):
        return _find_timm_stages(network, count)
    sizes = _record_map_sizes(network)
    found = [_find_shrinking_ends(chain, sizes)[-count:] for chain in _iter_chains(network)]
    complete = [ends for ends in found if len(ends) == count]
    return complete[0] if complete else ()


def _find_timm_stages(network: Any, count: int) -> tuple[str, ...]:
    """The last modules that halve the image, or the ends of equal runs where there are not so many."""
    feature_info = list(network.feature_info)
    last = list({entry["reduction"]: entry["module"] for entry in feature_info}.values())[-count:]
    if len(last) < count:
        last = [feature_info[i]["module"] for i in compute_equal_run_ends(len(feature_info), count)]
    return tuple(last)


def _record_map_sizes(network: nn.Module) -> dict[str, int]:
    """Height of the map that each module returns, in the order in which they finish, for those that run once."""
    sizes: dict[str, int] = {}
    runs: dict[str, int] = {}

    def make_hook(name: str) -> Any:
        def record(module: nn.Module, given: object, output: object) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
                sizes[name] = output.shape[2]

        return record

    handles = [module.register_forward_hook(make_hook(name)) for name, module in network.named_modules() if name]
    training = [module for module in network.modules() if module.training]
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(2, 3, _PROBE_SIZE, _PROBE_SIZE, device=device))
    except Exception:  # foreign code may raise anything; such a network has to be divided by the recipe
        sizes.clear()
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return {name: size for name, size in sizes.items() if runs[name] == 1}


def _iter_chains(network: nn.Module) -> Iterator[list[str]]:
    """The names of modules that may run one after the other, outermost first."""
    yield [name for name, _ in network.named_children()]
    for name, module in network.named_modules():
        if name and isinstance(module, nn.Sequential | nn.ModuleList):
            yield [f"{name}.{child}" for child, _ in module.named_children()]


def _find_shrinking_ends(chain: list[str], sizes: dict[str, int]) -> tuple[str, ...]:
    """The last module of each size in a chain whose maps shrink; maps of 1 x 1 pixel come from the final pooling."""
    ends: dict[int, str] = {}
    for name in chain:
        size = sizes.get(name, 1)
        if size > 1 and all(size <= earlier for earlier in ends):
            ends[size] = name
    return tuple(ends.values())
