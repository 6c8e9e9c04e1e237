"""Video models of transformers (VideoMAE, TimeSformer, ViViT, V-JEPA 2) from a folder or from the Hugging Face hub.

Weights are read from safetensors files only, and code beside them is never run (``trust_remote_code`` is false).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict, cast

import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.untrusted.json_file import read_json
from skd_edge.models.external.adapter_spec import AdapterSpec, ExternalNetwork, compute_equal_run_ends
from skd_edge.models.external.torchvision_timm import import_torchvision
from skd_edge.recipe.networks import DEFAULT_SUBSTAGE_COUNT, SingleTeacher
from skd_edge.recipe.schema import TeacherClip

_FILE_PATTERNS = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
_MAX_CONFIG_BYTES = 1 << 20
_SAFE_LOAD_OPTIONS = {"trust_remote_code": False, "local_files_only": True}


class ProcessorConfig(TypedDict, total=False):
    """What is read of a ``preprocessor_config.json``.

    Attributes:
        image_mean: Subtracted from each channel.
        image_std: Each channel is divided by it.
        rescale_factor: Pixels from 0 to 255 are multiplied by it; 1/255 if it is absent.
        do_rescale: Whether pixels are multiplied; True if it is absent.
        do_normalize: Whether mean and std are used; True if it is absent.
        offset: Whether pixels are scaled to the range -1 to 1 first.
    """

    image_mean: list[float]
    image_std: list[float]
    rescale_factor: float
    do_rescale: bool
    do_normalize: bool
    offset: bool


def load_hub_network(teacher: SingleTeacher, classes: int | None, seed: int) -> ExternalNetwork:
    """Load the network, in evaluation mode. A teacher that is trained here gets a new head if the classes differ.

    Args:
        teacher: a teacher with ``hub``.
        classes: number of classes in the dataset; None: not known yet, the model keeps its own head.
        seed: for a new head's weights (the caller's random state is not changed).

    Raises:
        ImportError: transformers is not installed.
        UserError: The folder does not contain a video classifier of transformers, has no safetensors file, or lacks
            weights of a teacher that is said to be trained.
    """
    transformers = import_transformers()
    folder = resolve_hub_folder(teacher)
    config = _load_config(folder, teacher)
    head_options: dict[str, int] = {}
    if not (teacher.trained or teacher.checkpoint) and classes is not None:
        head_options = {"num_labels": classes, "ignore_mismatched_sizes": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network, loading_info = transformers.AutoModelForVideoClassification.from_pretrained(
                folder,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
                **_SAFE_LOAD_OPTIONS,
                **head_options,
            )
        except Exception as error:  # what transformers raises for a damaged folder depends on what is damaged
            raise UserError(
                f"teacher.hub {teacher.hub} cannot be loaded as a video classifier: {_format_short_error(error)}; the "
                "folder needs config.json and the weights as safetensors (network.save_pretrained(FOLDER) writes both)"
            ) from error
    if teacher.trained and (missing := sorted(loading_info["missing_keys"])):
        raise UserError(
            f"teacher.hub {teacher.hub} lacks {len(missing)} of its weights ({', '.join(missing[:3])}), so it is not a "
            "trained classifier; remove 'trained', and it is trained here"
        )
    try:
        spec = make_adapter_spec(network, config, _read_processor_config(folder))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"teacher.hub {teacher.hub}: config.json or preprocessor_config.json has a value of another form than "
            f"transformers writes: {_format_short_error(error)}; copy the folder again"
        ) from error
    return ExternalNetwork(network, spec, find_class_names(config) if teacher.trained else ())


def import_transformers() -> ModuleType:
    """Import transformers.

    It imports torchvision if that is installed, so ``import_torchvision`` does that first, in a way that cannot fail
    for a torchvision built for another torch.

    Raises:
        ImportError: transformers is not installed.
    """
    if importlib.util.find_spec("torchvision"):
        import_torchvision("torchvision")
    return importlib.import_module("transformers")


def find_class_names(config: Any) -> tuple[str, ...]:
    """The class names of a model's configuration; empty if they are only numbered (LABEL_0, LABEL_1, ...)."""
    names = [str(name) for _, name in sorted((int(i), n) for i, n in config.id2label.items())]
    return () if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else tuple(names)


def make_adapter_spec(network: nn.Module, config: Any, processor: ProcessorConfig) -> AdapterSpec:
    """Describe a model: substages end after four equal runs of the encoder's layers; clips are as in its processor.

    Args:
        network: the model.
        config: its configuration of transformers.
        processor: the contents of its preprocessor_config.json; may be empty.

    Raises:
        UserError: The encoder's layers are not found.
    """
    layers = next(
        (
            name
            for name, module in network.named_modules()
            if isinstance(module, nn.ModuleList)
            and len(module) == config.num_hidden_layers
            and not {"predictor", "decoder", "pooler"} & set(name.split("."))
        ),
        None,
    )
    if layers is None:
        raise UserError(f"the layers of a {config.model_type} are not found; set teacher.substages")
    tubelet = getattr(config, "tubelet_size", 1)
    # TimeSformer keeps time as the inner token axis, except with "space_only", where frames are folded into the batch.
    divided = getattr(config, "attention_type", "") != "space_only"
    layout = ("BMC" if divided else "FNC") if config.model_type == "timesformer" else "BNC"
    clip_settings = {
        "frames": getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None),
        "size": _side_length(getattr(config, "image_size", None) or getattr(config, "crop_size", None)),
        **_compute_normalisation(processor),
    }
    run_ends = compute_equal_run_ends(config.num_hidden_layers, min(DEFAULT_SUBSTAGE_COUNT, config.num_hidden_layers))
    return AdapterSpec(
        tuple(f"{layers}.{i}" for i in run_ends),
        "frames-first",
        layout,
        int(tubelet[0] if isinstance(tubelet, list | tuple) else tubelet),
        TeacherClip.model_validate({k: v for k, v in clip_settings.items() if v is not None}),
    )


def resolve_hub_folder(teacher: SingleTeacher) -> Path:
    """The folder of a hub teacher; a name on the hub is downloaded once (configuration, processor and safetensors).

    Raises:
        ImportError: huggingface_hub is not installed.
        UserError: The folder does not exist, and the name cannot be downloaded.
    """
    assert teacher.hub is not None
    if Path(teacher.hub).is_dir():
        return Path(teacher.hub)
    if Path(teacher.hub).is_absolute():
        raise UserError(
            f"teacher.hub {teacher.hub}: this folder does not exist; give a folder that save_pretrained wrote"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(teacher.hub, revision=teacher.revision, allow_patterns=list(_FILE_PATTERNS)))
    except Exception as error:  # errors of huggingface_hub and of its HTTP library
        raise UserError(
            f"teacher.hub {teacher.hub} is not a folder beside the recipe, and cannot be downloaded from the hub: "
            f"{_format_short_error(error)}; give a folder that save_pretrained wrote"
        ) from error


def hub_fingerprint(teacher: SingleTeacher) -> str:
    """Hash of the folder's configuration and weights.

    Raises:
        ImportError: See ``resolve_hub_folder``.
        UserError: See ``resolve_hub_folder``.
    """
    digest = hashlib.sha256()
    files = sorted({path for pattern in _FILE_PATTERNS for path in resolve_hub_folder(teacher).glob(pattern)})
    for path in files:
        stat = path.stat()
        digest.update(f"{path.name} {_cached_sha256(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)
def _cached_sha256(path: Path, size: int, changed: int) -> str:
    """The file's hash; size and time of change are part of the cache key, so that a changed file is read again."""
    return sha256_file(path)


def _load_config(folder: Path, teacher: SingleTeacher) -> Any:
    from transformers import AutoConfig, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return AutoConfig.from_pretrained(folder, **_SAFE_LOAD_OPTIONS)
    except Exception as error:  # see above
        raise UserError(
            f"teacher.hub {teacher.hub} has no config.json that transformers can read: {_format_short_error(error)}; "
            "code beside a model is never run (use teacher.factory for a model with its own code)"
        ) from error


def _read_processor_config(folder: Path) -> ProcessorConfig:
    try:
        found = read_json(folder / "preprocessor_config.json", max_bytes=_MAX_CONFIG_BYTES)
    except (OSError, ValueError):
        return {}
    return cast(ProcessorConfig, found) if isinstance(found, dict) else {}


def _compute_normalisation(processor: ProcessorConfig) -> dict[str, list[float]]:
    """Convert a processor's steps on pixels from 0 to 255 to one mean and std for pixels from 0 to 1.

    A processor may scale pixels to the range -1 to 1 (``offset``) before it subtracts a mean, or instead of that.
    """
    if "image_mean" not in processor and "rescale_factor" not in processor:
        return {}
    scale = 255 * float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 255.0
    offset = 1.0 if processor.get("offset") else 0.0
    normalises = processor.get("do_normalize", True) and "image_mean" in processor
    mean, std = (processor["image_mean"], processor["image_std"]) if normalises else ([0.0] * 3, [1.0] * 3)
    return {"mean": [(offset + m) / scale for m in mean], "std": [s / scale for s in std]}


def _side_length(size: Any) -> Any:
    return size[0] if isinstance(size, list | tuple) else size


def _format_short_error(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
