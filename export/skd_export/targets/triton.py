"""A bundle as a Triton model repository: one model a file, each with its config.pbtxt and its labels.

The layout is Triton's (``MODEL/config.pbtxt``, ``MODEL/1/model.onnx``); the field names are those of its
``model_config.proto``. The repository holds copies: the bundle stays as it is.
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
        bundle: A bundle that is as it was written.
        repository: A folder that is not there yet; it appears whole or not at all.
        largest_batch: Clips that Triton may put into one query.

    Returns:
        The names of the models, the bundle's default first.

    Raises:
        UserError: The bundle is not as it was written, holds no ONNX file, or the folder cannot be written.
    """
    bundle, repository = Path(bundle), Path(repository)
    manifest = Manifest.load(bundle)
    if problems := find_bundle_problems(bundle):
        raise UserError(f"{bundle} is not as it was written: {'; '.join(problems)}. Copy it again from its source")
    if repository.exists():
        raise UserError(f"{repository} is there already; give a folder that is not, or move it away")
    artefacts = sorted(
        (a for a in manifest.artefacts if a.file.endswith(".onnx")), key=lambda a: a.file != manifest.default
    )
    if not artefacts:
        raise UserError(f"{bundle} holds no ONNX file; Triton takes its files by their runtime, and knows ours as ONNX")
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
    """The artefact's file without its ending, in letters that any client can send in an address."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", artefact.file.removesuffix(".onnx"))


def format_model_config(manifest: Manifest, artefact: Artefact, payload: str, largest_batch: int) -> str:
    """The ``config.pbtxt`` of one file: shapes without the batch, and where it comes from."""
    t, h, w = manifest.sampling.frames, manifest.preprocess.height, manifest.preprocess.width
    dims = (3, t, h, w) if manifest.contract == "float_clip" else (t, h, w, 3)
    name, dtype = _INPUTS[manifest.contract]
    # The INT8 file is made for ONNX Runtime's CPU kernels; where Triton has a GPU it would put it there.
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
    """A string of protobuf's text format: JSON's escapes of ASCII are among its own."""
    return json.dumps(value)
