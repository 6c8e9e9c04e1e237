"""Weights from a file that somebody else wrote: tensors and nothing else, no code is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from skd_bench.errors import UserError

_STATE_DICT_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
)  # where training scripts keep the weights in their checkpoints
_WRAPPER_PREFIXES = ("", "network.", "module.", "model.", "_orig_mod.")  # what wrappers put before every name


def load_weights(network: nn.Module, path: Path, what: str = "the network") -> None:
    """Put the weights of a file into a network, every one of them.

    Args:
        network: what the weights are of.
        path: safetensors, or what ``torch.save`` wrote (a ``state_dict``, alone or inside a checkpoint); names may
            carry a wrapper's prefix (``module.``, ``network.``, ``model.``, ``_orig_mod.``).
        what: how messages call the network.

    Raises:
        UserError: The file cannot be read, or names and shapes are not the network's.
    """
    state = read_weights(path)
    wanted = network.state_dict().keys()
    for prefix in _WRAPPER_PREFIXES:
        stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if len(stripped) == len(state) and stripped.keys() == wanted:
            state = stripped
            break
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"{path} does not fit {what}: {reason[:400] or error}") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; a ``.safetensors`` file, or a file that ``torch.load(weights_only=True)`` takes.

    Raises:
        UserError: It cannot be read, holds anything but tensors, or no weights.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors, and reading it could run code; save the network's state_dict() alone"
        ) from None
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path} cannot be read as weights: {str(error).splitlines()[0]}") from None
    for name in _STATE_DICT_KEYS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    if not isinstance(found, dict) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} holds no state_dict; save the network's state_dict() alone")
    return {str(name): tensor for name, tensor in found.items()}


def load_matching_weights(network: nn.Module, path: Path, what: str) -> list[str]:
    """Put the weights of a file into a network, but those whose shape differs (the head of another class list).

    Args:
        network: what begins from them.
        path: see ``load_weights``.
        what: how messages call the network.

    Returns:
        Names that keep their first weights.

    Raises:
        UserError: The file cannot be read, or it holds less than 9 in 10 of the network's tensors.
    """
    state, wanted = read_weights(path), network.state_dict()

    def find_matching_tensors(prefix: str) -> dict[str, Tensor]:
        named = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        return {name: t for name, t in named.items() if name in wanted and wanted[name].shape == t.shape}

    best = max((find_matching_tensors(prefix) for prefix in _WRAPPER_PREFIXES), key=len)
    if len(best) < 0.9 * len(wanted):
        raise UserError(
            f"{path} does not fit {what}: {len(best)} of its {len(wanted)} tensors are there with their shapes; give "
            "weights of this network"
        )
    network.load_state_dict(best, strict=False)
    return [name for name in wanted if name not in best]
