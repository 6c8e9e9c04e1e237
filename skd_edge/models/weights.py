"""Reading network weights from files of unknown origin: only tensors are read, and no code is run."""

from __future__ import annotations

import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from skd_bench.errors import UserError
from skd_bench.files import open_regular_file
from skd_bench.runtimes.base import first_error_line

# Keys under which training scripts store the weights in a checkpoint.
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
# Prefixes that wrappers such as DistributedDataParallel or torch.compile add to every tensor's name.
_MAX_LISTED_NAMES = 4
_WRAPPER_PREFIXES = ("", "network.", "module.", "model.", "_orig_mod.")


def load_weights(network: nn.Module, path: Path, what: str = "the network") -> None:
    """Load all weights of a network from a file.

    Args:
        network: gets the weights.
        path: a safetensors file, or a file written by ``torch.save`` (a ``state_dict``, alone or inside a checkpoint).
            Tensor names may have a wrapper's prefix (``module.``, ``network.``, ``model.``, ``_orig_mod.``).
        what: the name of the network in error messages.

    Raises:
        UserError: The file cannot be read, or its names and shapes are not those of the network.
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
    """Read the tensors of a file by name.

    Args:
        path: a ``.safetensors`` file, or a file that ``torch.load(weights_only=True)`` can read.

    Raises:
        UserError: The file cannot be read, contains anything but tensors, or contains no weights.
    """
    try:
        _check_container(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, weights_only=True, map_location="cpu")
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} contains more than tensors, and reading it could run code; save only the network's state_dict()"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read as weights: {error.strerror or first_error_line(error)}") from None
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read as weights: {first_error_line(error)}") from None
    except Exception as error:  # what a damaged file raises depends on the byte; torch's advice is to allow any code
        raise UserError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is damaged, or was written neither by "
            "torch.save nor as safetensors; copy or save it again"
        ) from None
    for name in _STATE_DICT_KEYS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    if not isinstance(found, dict) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} contains no state_dict; save the network's state_dict()")
    return {str(name): tensor for name, tensor in found.items()}


def _check_container(path: Path) -> None:
    """Refuse pipes and devices, and archives whose members would grow when they are read (torch stores them plainly).

    Raises:
        OSError: See ``open_regular_file``.
        UserError: The archive is compressed.
    """
    with open_regular_file(path) as file:
        if not zipfile.is_zipfile(file):
            return
        with suppress(zipfile.BadZipFile, EOFError, ValueError, NotImplementedError), zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise UserError(f"{path} is a compressed archive, but torch.save writes plain ones; save it again")


def load_matching_weights(network: nn.Module, path: Path, what: str) -> list[str]:
    """Load the weights of a file whose names and shapes match; a head for other classes, for example, does not match.

    Args:
        network: gets the weights.
        path: see ``load_weights``.
        what: the name of the network in error messages.

    Returns:
        Names of the tensors that keep their initial values.

    Raises:
        UserError: The file cannot be read, or fewer than 90 % of the network's tensors match.
    """
    state, wanted = read_weights(path), network.state_dict()

    def find_matching_tensors(prefix: str) -> dict[str, Tensor]:
        named = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        return {name: t for name, t in named.items() if name in wanted and wanted[name].shape == t.shape}

    best = max((find_matching_tensors(prefix) for prefix in _WRAPPER_PREFIXES), key=len)
    if len(best) < 0.9 * len(wanted):
        raise UserError(
            f"{path} does not fit {what}: {len(best)} of its {len(wanted)} tensors are in the file with the right "
            f"shape; not {_list_names([name for name in wanted if name not in best])}; give weights of this network"
        )
    network.load_state_dict(best, strict=False)
    return [name for name in wanted if name not in best]


def _list_names(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _MAX_LISTED_NAMES
    return ", ".join(names[:_MAX_LISTED_NAMES]) + (f" and {more} more" if more > 0 else "")
