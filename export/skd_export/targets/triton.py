"""Writes a Triton model repository from a bundle: a model for each ONNX file and engine, with config.pbtxt and labels.

The layout is Triton's (``MODEL/config.pbtxt``, ``MODEL/1/model.onnx``); the field names are those of its
``model_config.proto``. The files are copies: the bundle is not changed.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from skd_bench.bundle.manifest import MANIFEST_FILE, Artefact, Manifest, resolve_bundle_path
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_atomic
from skd_bench.runtimes.tensorrt.engine_file import EngineMetadata, read_engine_metadata
from skd_export.bundle.writer import format_labels, write_folder_atomically

_INPUTS = {"float_clip": ("clip", "TYPE_FP32"), "uint8_frames": ("frames", "TYPE_UINT8")}
LABELS = "labels.txt"


def write_triton_repository(
    bundle: Path | str, repository: Path | str, *, largest_batch: int = 8, engines: Sequence[Path] = ()
) -> list[str]:
    """Write a model repository from a bundle.

    Args:
        bundle: A bundle that has not changed since it was written.
        repository: A folder that does not exist yet. It is written completely or not at all.
        largest_batch: How many clips Triton may combine into one query of an ONNX file.
        engines: TensorRT engines that were built from files of the bundle; each becomes a model of its own.

    Returns:
        The names of the models; the bundle's default is first.

    Raises:
        UserError: The bundle has changed or contains no ONNX file, an engine was built from another file or for
            TensorRT-RTX, or the folder exists or cannot be written.
    """
    bundle, repository = Path(bundle), Path(repository)
    manifest = Manifest.load(bundle)
    if problems := find_bundle_problems(bundle, manifest):
        raise UserError(
            f"{bundle} has changed since it was written: {'; '.join(problems)}. Copy it again from its source"
        )
    if repository.exists():
        _refuse_existing(repository)
    artefacts = sorted(
        (a for a in manifest.artefacts if a.file.endswith(".onnx")), key=lambda a: a.file != manifest.default
    )
    if not artefacts:
        raise UserError(
            f"{bundle} contains no ONNX file, which a Triton repository needs; export one and write the bundle again"
        )
    payload = sha256_file(bundle / MANIFEST_FILE)
    plans = [(engine, *_find_source(engine, artefacts)) for engine in engines]
    with write_folder_atomically(repository, _refuse_existing) as building:
        for artefact in artefacts:
            model = building / model_name(artefact)
            (model / "1").mkdir(parents=True)
            shutil.copyfile(resolve_bundle_path(bundle, artefact.file), model / "1" / "model.onnx")
            write_atomic(model / LABELS, format_labels(manifest))
            write_atomic(model / "config.pbtxt", format_model_config(manifest, artefact, payload, largest_batch))
        for engine, metadata, artefact in plans:
            model = building / f"{model_name(artefact)}_tensorrt"
            (model / "1").mkdir(parents=True)
            shutil.copyfile(engine, model / "1" / "model.plan")
            write_atomic(model / LABELS, format_labels(manifest))
            write_atomic(model / "config.pbtxt", format_engine_config(manifest, artefact, metadata, payload))
    return [*map(model_name, artefacts), *(f"{model_name(artefact)}_tensorrt" for _, _, artefact in plans)]


def _refuse_existing(repository: Path) -> None:
    raise UserError(f"{repository} already exists; choose a new folder, or move this one away")


def _find_source(engine: Path, artefacts: Sequence[Artefact]) -> tuple[EngineMetadata, Artefact]:
    """An engine's metadata, and the file of the bundle that it was built from."""
    metadata = read_engine_metadata(engine)
    if metadata.runtime != "tensorrt":
        raise UserError(f"{engine} is an engine of {metadata.runtime}, and Triton runs those of tensorrt only")
    source = next((a for a in artefacts if a.sha256 == metadata.source_sha256), None)
    if source is None:
        raise UserError(
            f"{engine} was built from {metadata.source}, which is not a file of this bundle; build it with: "
            "skd-edge build BUNDLE --runtime tensorrt"
        )
    return metadata, source


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
    # The INT8 file is made for ONNX Runtime's CPU kernels; without this, Triton would run it on a GPU if there is one.
    instance_group = "instance_group [ { count: 1, kind: KIND_CPU } ]\n" if artefact.precision == "int8" else ""
    return (
        f"name: {_quote_text(model_name(artefact))}\n"
        'backend: "onnxruntime"\n'
        'default_model_filename: "model.onnx"\n'
        f"max_batch_size: {largest_batch}\n"
        f"{_format_tensors(manifest, [])}"
        f"{instance_group}"
        "dynamic_batching { }\n"
        f"{_format_provenance(manifest, {'payload_sha256': payload, 'file_sha256': artefact.sha256})}"
    )


def format_engine_config(manifest: Manifest, artefact: Artefact, engine: EngineMetadata, payload: str) -> str:
    """Format the ``config.pbtxt`` of an engine.

    Triton batches an engine whose batch size may change. One of a fixed batch size takes exactly that many clips.

    Args:
        manifest: The bundle's manifest.
        artefact: The file that the engine was built from.
        engine: Its metadata.
        payload: See `format_model_config`.
    """
    low, _, high = engine.batches
    batching = "dynamic_batching { }\n" if low < high else ""
    provenance = {
        "payload_sha256": payload,
        "file_sha256": artefact.sha256,
        "engine_sha256": engine.sha256,
        "engine_runs_on": f"{engine.runtime} {engine.version}, {', '.join(f'SM{sm}' for sm in engine.sms)}",
    }
    return (
        f"name: {_quote_text(f'{model_name(artefact)}_tensorrt')}\n"
        'backend: "tensorrt"\n'
        'default_model_filename: "model.plan"\n'
        f"max_batch_size: {high if low < high else 0}\n"
        f"{_format_tensors(manifest, [] if low < high else [high])}"
        "instance_group [ { count: 1, kind: KIND_GPU } ]\n"
        f"{batching}"
        f"{_format_provenance(manifest, provenance)}"
    )


def _format_tensors(manifest: Manifest, batch: list[int]) -> str:
    """Input and output; `batch` is the length of the batch axis where Triton does not batch, else empty."""
    t, h, w = manifest.sampling.frames, manifest.preprocess.height, manifest.preprocess.width
    dims = [3, t, h, w] if manifest.contract == "float_clip" else [t, h, w, 3]
    name, dtype = _INPUTS[manifest.contract]
    return (
        f"input [ {{ name: {_quote_text(name)}, data_type: {dtype}, dims: {batch + dims} }} ]\n"
        f'output [ {{ name: "logits", data_type: TYPE_FP32, dims: {[*batch, len(manifest.classes)]}, '
        f"label_filename: {_quote_text(LABELS)} }} ]\n"
    )


def _format_provenance(manifest: Manifest, hashes: Mapping[str, str]) -> str:
    preparation = {"sampling": manifest.sampling, "preprocess": manifest.preprocess}
    values = {**hashes, **{name: json.dumps(vars(one)) for name, one in preparation.items()}}
    return "".join(
        f"parameters {{ key: {_quote_text(f'skd_edge.{key}')} value: {{ string_value: {_quote_text(value)} }} }}\n"
        for key, value in values.items()
    )


def _quote_text(value: str) -> str:
    """A string literal of protobuf's text format, which supports all escapes that JSON uses for ASCII output."""
    return json.dumps(value)
