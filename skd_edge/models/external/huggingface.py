"""A video model of transformers, from its folder or from the hub: VideoMAE, TimeSformer, ViViT, V-JEPA 2.

Weights are read from safetensors alone, and code that lies beside them is never run (``trust_remote_code`` is false).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_edge.models.external.adapter_spec import Made, Spec, evenly
from skd_edge.models.external.torchvision_timm import import_torchvision
from skd_edge.recipe.networks import READY, Member
from skd_edge.recipe.schema import TeacherClip

_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
_CLOSED: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


def make_hub(teacher: Member, classes: int | None, seed: int) -> Made:
    """The network, in evaluation mode; a head of another size is drawn from ``seed`` where it is to learn here.

    Args:
        teacher: a teacher with ``hub``.
        classes: how many the data has; None: not known yet, the model's own number.
        seed: what a new head is drawn from (the caller's random state is untouched).

    Raises:
        ImportError: transformers is not installed.
        UserError: The folder is no video classifier of transformers, has no safetensors, or, where it should come
            trained, lacks weights.
    """
    transformers = import_transformers()
    folder = folder_of(teacher)
    config = _config(folder, teacher)
    more: dict[str, Any] = {}
    if not (teacher.trained or teacher.checkpoint) and classes is not None:
        more = {"num_labels": classes, "ignore_mismatched_sizes": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network, told = transformers.AutoModelForVideoClassification.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **_CLOSED, **more
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(
                f"teacher.hub {teacher.hub} cannot be loaded as a video classifier: {_brief(error)}; it needs "
                "config.json and its weights as safetensors (network.save_pretrained(FOLDER) writes both)"
            ) from error
    if teacher.trained and (missing := sorted(told["missing_keys"])):
        raise UserError(
            f"teacher.hub {teacher.hub} comes without {len(missing)} of its weights ({', '.join(missing[:3])}), so it "
            "is not trained to classify; leave out 'trained', and it learns here"
        )
    return Made(network, spec_of(network, config, _processor(folder)), named(config) if teacher.trained else ())


def import_transformers() -> ModuleType:
    """The library, which imports torchvision where that is there.

    Raises:
        ImportError: It is not installed.
    """
    if importlib.util.find_spec("torchvision"):
        import_torchvision("torchvision")
    return importlib.import_module("transformers")


def named(config: Any) -> tuple[str, ...]:
    """The names of a model's classes, none where they are only numbered (LABEL_0, LABEL_1, ...)."""
    names = [str(name) for _, name in sorted((int(i), n) for i, n in config.id2label.items())]
    return () if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else tuple(names)


def spec_of(network: nn.Module, config: Any, processor: dict[str, Any]) -> Spec:
    """Substages at the ends of four equal runs of the encoder's layers; the clips that its processor makes."""
    layers = next(
        (
            name for name, module in network.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
            and not {"predictor", "decoder", "pooler"} & set(name.split("."))
        ),
        None,
    )  # fmt: skip
    if layers is None:
        raise UserError(f"the layers of a {config.model_type} are not found; name teacher.substages")
    tubelet = getattr(config, "tubelet_size", 1)
    divided = getattr(config, "attention_type", "") != "space_only"
    layout = ("BMC" if divided else "FNC") if config.model_type == "timesformer" else "BNC"
    wants = {
        "frames": getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None),
        "size": _side(getattr(config, "image_size", None) or getattr(config, "crop_size", None)),
        **_normalisation(processor),
    }
    return Spec(
        tuple(f"{layers}.{i}" for i in evenly(config.num_hidden_layers, min(READY, config.num_hidden_layers))),
        "frames-first",
        layout,
        int(tubelet[0] if isinstance(tubelet, list | tuple) else tubelet),
        TeacherClip.model_validate({k: v for k, v in wants.items() if v is not None}),
    )


def folder_of(teacher: Member) -> Path:
    """The folder of a hub teacher; a name on the hub is fetched (config, processor and safetensors only), once.

    Raises:
        ImportError: huggingface_hub is not installed.
        UserError: There is no such folder, and no such name that can be reached.
    """
    assert teacher.hub is not None
    if Path(teacher.hub).is_dir():
        return Path(teacher.hub)
    if Path(teacher.hub).is_absolute():
        raise UserError(f"teacher.hub {teacher.hub}: there is no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(teacher.hub, revision=teacher.revision, allow_patterns=list(_FILES)))
    except Exception as error:  # its own errors, and those of what it fetches with
        raise UserError(
            f"teacher.hub {teacher.hub} is no folder beside the recipe, and cannot be fetched from the hub: "
            f"{_brief(error)}; give a folder that save_pretrained wrote"
        ) from error


def hub_hash(teacher: Member) -> str:
    """Names what the folder holds: configuration and weights, byte by byte.

    Raises:
        UserError: See ``folder_of``.
    """
    known = hashlib.sha256()
    files = sorted({path for pattern in _FILES for path in folder_of(teacher).glob(pattern)})
    for path in files:
        stat = path.stat()
        known.update(f"{path.name} {_sha256(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return known.hexdigest()


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


def _config(folder: Path, teacher: Member) -> Any:
    from transformers import AutoConfig, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return AutoConfig.from_pretrained(folder, **_CLOSED)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"teacher.hub {teacher.hub} has no config.json that transformers knows: {_brief(error)}; code "
                        "beside a model is never run (see teacher.factory)") from error  # fmt: skip


def _processor(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _normalisation(processor: dict[str, Any]) -> dict[str, list[float]]:
    """What a processor does to pixels of 0 to 255, said as mean and std of pixels of 0 to 1.

    A processor may scale to -1 to 1 (``offset``) before, or instead of, subtracting a mean.
    """
    if "image_mean" not in processor and "rescale_factor" not in processor:
        return {}
    scale = 255 * float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 255.0
    offset = 1.0 if processor.get("offset") else 0.0
    normal = processor.get("do_normalize", True) and "image_mean" in processor
    mean, std = (processor["image_mean"], processor["image_std"]) if normal else ([0.0] * 3, [1.0] * 3)
    return {"mean": [(offset + m) / scale for m in mean], "std": [s / scale for s in std]}


def _side(size: Any) -> Any:
    return size[0] if isinstance(size, list | tuple) else size


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
