"""Writes a Triton model repository from a bundle: one model for each ONNX file, with its config.pbtxt and labels.

The layout is Triton's (``MODEL/config.pbtxt``, ``MODEL/1/model.onnx``); the field names are those of its
``model_config.proto``. The files are copies: the bundle is not changed.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from skd_bench.bundle.manifest import MANIFEST_FILE, Artefact, Manifest, resolve_bundle_path
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_atomic
from skd_export.bundle.writer import format_labels, write_folder_atomically

_INPUTS = {"float_clip": ("clip", "TYPE_FP32"), "uint8_frames": ("frames", "TYPE_UINT8")}
LABELS = "labels.txt"


def write_triton_repository(bundle: Path | str, repository: Path | str, *, largest_batch: int = 8) -> list[str]:
    """Write a model repository from a bundle.

    Args:
        bundle: A bundle that has not changed since it was written.
        repository: A folder that does not exist yet. It is written completely or not at all.
        largest_batch: How many clips Triton may combine into one query.

    Returns:
        The names of the models; the bundle's default is first.

    Raises:
        UserError: The bundle has changed or contains no ONNX file, or the folder exists or cannot be written.
    """
    bundle, repository = Path(bundle), Path(repository)
    manifest = Manifest.load(bundle)
    if problems := find_bundle_problems(bundle, manifest):
        raise UserError(
            f"{bundle} has changed since it was written: {'; '.join(problems)}. Copy it again from its source"
        )
    if repository.exists():
        raise UserError(f"{repository} already exists; choose a new folder, or move this one away")
    artefacts = sorted(
        (a for a in manifest.artefacts if a.file.endswith(".onnx")), key=lambda a: a.file != manifest.default
    )
    if not artefacts:
        raise UserError(
            f"{bundle} contains no ONNX file, which a Triton repository needs; export one and write the bundle again"
        )
    payload = sha256_file(bundle / MANIFEST_FILE)
    with write_folder_atomically(repository) as building:
        for artefact in artefacts:
            model = building / model_name(artefact)
            (model / "1").mkdir(parents=True)
            shutil.copyfile(resolve_bundle_path(bundle, artefact.file), model / "1" / "model.onnx")
            write_atomic(model / LABELS, format_labels(manifest))
            write_atomic(model / "config.pbtxt", format_model_config(manifest, artefact, payload, largest_batch))
    return [model_name(artefact) for artefact in artefacts]


def model_name(artefact: Artefact) -> str:
    """The name of the artefact's file without its ending, with characters that are safe in a URL."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", artefact.file.removesuffix(".onnx"))


def format_model_config(manifest: Manifest, artefact: Artefact, payload: str, largest_batch: int) -> str:
    """Format the ``config.pbtxt`` of one file.

    Args:
        manifest: The bundle's manifest.
        artefact: The file.
        payload: SHA-256 of the manifest: it identifies the bundle that the file comes from.
        largest_batch: How many clips Triton may combine into one query.
    """
    t, h, w = manifest.sampling.frames, manifest.preprocess.height, manifest.preprocess.width
    dims = (3, t, h, w) if manifest.contract == "float_clip" else (t, h, w, 3)
    name, dtype = _INPUTS[manifest.contract]
    # The INT8 file is made for ONNX Runtime's CPU kernels; without this, Triton would run it on a GPU if there is one.
    instance_group = "instance_group [ { count: 1, kind: KIND_CPU } ]\n" if artefact.precision == "int8" else ""
    provenance = {
        "skd_edge.payload_sha256": payload,
        "skd_edge.file_sha256": artefact.sha256,
        "skd_edge.sampling": json.dumps(vars(manifest.sampling)),
        "skd_edge.preprocess": json.dumps(vars(manifest.preprocess)),
    }
    parameters = "".join(
        f"parameters {{ key: {_quote_text(key)} value: {{ string_value: {_quote_text(value)} }} }}\n"
        for key, value in provenance.items()
    )
    return (
        f"name: {_quote_text(model_name(artefact))}\n"
        'backend: "onnxruntime"\n'
        'default_model_filename: "model.onnx"\n'
        f"max_batch_size: {largest_batch}\n"
        f"input [ {{ name: {_quote_text(name)}, data_type: {dtype}, dims: {list(dims)} }} ]\n"
        f'output [ {{ name: "logits", data_type: TYPE_FP32, dims: [{len(manifest.classes)}], '
        f"label_filename: {_quote_text(LABELS)} }} ]\n"
        f"{instance_group}"
        "dynamic_batching { }\n"
        f"{parameters}"
    )


def _quote_text(value: str) -> str:
    """A string literal of protobuf's text format, which supports all escapes that JSON uses for ASCII output."""
    return json.dumps(value)
