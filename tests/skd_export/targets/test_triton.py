"""The Triton layout: protobuf's text parser reads the configs with the fields of model_config.proto."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from skd_bench.bundle.manifest import Manifest
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.runtimes.tensorrt.builder import BuildOptions, build_engine
from skd_bench.video.types import Preprocessing, Sampling
from skd_export.bundle.writer import ModelFile, write_bundle
from skd_export.targets.triton import format_model_config, write_triton_repository

CLASSES = ["left", 'a "quoted" \\ name', "up\ndown", "é", "still"]
Field = descriptor_pb2.FieldDescriptorProto
ENUMS = {"DataType": {"TYPE_UINT8": 2, "TYPE_FP32": 11}, "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2}}
# The fields that we write, with the numbers and types they have in triton-inference-server/common's model_config.proto.
MESSAGES = {
    "ModelInput": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (4, "int64*")},
    "ModelOutput": {
        "name": (1, "string"),
        "data_type": (2, "DataType"),
        "dims": (3, "int64*"),
        "label_filename": (4, "string"),
    },
    "ModelInstanceGroup": {"name": (1, "string"), "count": (2, "int32"), "kind": (4, "Kind")},
    "ModelDynamicBatching": {"preferred_batch_size": (1, "int32*")},
    "ModelParameter": {"string_value": (1, "string")},
    "Entry": {"key": (1, "string"), "value": (2, "ModelParameter")},
    "ModelConfig": {
        "name": (1, "string"),
        "max_batch_size": (4, "int32"),
        "input": (5, "ModelInput*"),
        "output": (6, "ModelOutput*"),
        "instance_group": (7, "ModelInstanceGroup*"),
        "default_model_filename": (8, "string"),
        "dynamic_batching": (11, "ModelDynamicBatching"),
        "parameters": (14, "Entry*"),
        "backend": (17, "string"),
    },
}


def schema():
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in {f"{name}_NONE": 0, **values}.items() if 0 not in values.values() else values.items():
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            one = message.field.add(name=field, number=number, label=3 if kind.endswith("*") else 1)
            kind = kind.rstrip("*")
            if kind in ENUMS or kind in MESSAGES:
                one.type, one.type_name = (14 if kind in ENUMS else 11), f".inference.{kind}"
            else:
                one.type = {"string": Field.TYPE_STRING, "int32": Field.TYPE_INT32, "int64": Field.TYPE_INT64}[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


@pytest.fixture
def bundle(fp32, tmp_path):
    models = [ModelFile(fp32, "fp32", "wide net", ["t"]), ModelFile(fp32, "int8", "wide net", ["t"])]
    return write_bundle(
        tmp_path / "bundle",
        name="motion",
        classes=CLASSES,
        sampling=Sampling(4),
        preprocess=Preprocessing(16, 16, "crop", (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        models=models,
        licences={},
        created_by="test",
    )


def test_every_file_is_a_model_whose_config_parses_and_fits_the_network(bundle, clips, tmp_path):
    names = write_triton_repository(bundle, tmp_path / "repository", largest_batch=4)
    assert names == ["wide_net_fp32", "wide_net_int8"]
    manifest = Manifest.load(bundle)
    for name in names:
        folder = tmp_path / "repository" / name
        config = text_format.Parse((folder / "config.pbtxt").read_text(), schema()())
        assert (config.name, config.backend, config.max_batch_size) == (name, "onnxruntime", 4)
        assert config.HasField("dynamic_batching")
        [clip], [logits] = config.input, config.output
        assert (list(clip.dims), clip.data_type, logits.data_type) == ([3, 4, 16, 16], 11, 11)
        session = ort.InferenceSession(str(folder / "1" / config.default_model_filename))
        x = clips(4, 7)
        assert x.shape[1:] == tuple(clip.dims)
        [answer] = session.run([logits.name], {clip.name: x})
        assert answer.shape == (4, *logits.dims)
        assert np.isfinite(answer).all()
        labels = (folder / logits.label_filename).read_text().splitlines()
        assert labels == ["left", 'a "quoted" \\ name', "up down", "é", "still"]
        parameters = {p.key: p.value.string_value for p in config.parameters}
        assert parameters["skd_edge.payload_sha256"] == sha256_file(bundle / "manifest.json")
        assert json.loads(parameters["skd_edge.preprocess"])["height"] == manifest.preprocess.height
        assert [g.kind for g in config.instance_group] == ([2] if name.endswith("int8") else [])


def test_a_folder_that_appears_while_a_repository_is_written_is_not_replaced(bundle, tmp_path, monkeypatch):
    def format_slowly(*arguments):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / "photo.jpg").write_bytes(b"mine")
        return format_model_config(*arguments)

    monkeypatch.setattr("skd_export.targets.triton.format_model_config", format_slowly)
    with pytest.raises(UserError, match="models already exists; choose a new folder"):
        write_triton_repository(bundle, tmp_path / "models")
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["photo.jpg"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "models"]


def test_an_existing_folder_and_a_changed_bundle_are_refused_and_nothing_is_written(bundle, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there already exists"):
        write_triton_repository(bundle, tmp_path / "there")
    (bundle / "wide_net.fp32.onnx").write_bytes(b"tampered")
    with pytest.raises(UserError, match="has changed since it was written"):
        write_triton_repository(bundle, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "there"]


@pytest.mark.parametrize(("most", "largest", "dims"), [(8, 8, [3, 4, 16, 16]), (1, 0, [1, 3, 4, 16, 16])])
def test_an_engine_becomes_a_model_of_its_own(bundle, tmp_path, tensorrt_double, most, largest, dims):
    options = BuildOptions(batches=(1, 1, most))
    build_engine(bundle / "wide_net.fp32.onnx", tmp_path / "e.engine", runtime="tensorrt", options=options)
    names = write_triton_repository(bundle, tmp_path / "models", engines=[tmp_path / "e.engine"])
    name = "wide_net_fp32_tensorrt"
    assert names == ["wide_net_fp32", "wide_net_int8", name]
    config = text_format.Parse((tmp_path / "models" / name / "config.pbtxt").read_text(), schema()())
    assert (config.name, config.backend, config.default_model_filename) == (name, "tensorrt", "model.plan")
    assert (config.max_batch_size, list(config.input[0].dims)) == (largest, dims)
    assert config.HasField("dynamic_batching") == (largest > 0)
    plan = tmp_path / "models" / name / "1" / "model.plan"
    assert plan.read_bytes() == (tmp_path / "e.engine").read_bytes()
    parameters = {one.key: one.value.string_value for one in config.parameters}
    assert parameters["skd_edge.engine_sha256"] == sha256_file(plan)
    assert parameters["skd_edge.engine_runs_on"] == "tensorrt 10.13.3+double, SM86"


def test_an_engine_of_another_file_is_refused(bundle, fp32, tmp_path, tensorrt_double):
    metadata = build_engine(fp32, tmp_path / "e.engine", runtime="tensorrt")
    for change, why in (
        ({"source_sha256": "0" * 64}, "not a file of this bundle"),
        ({"runtime": "tensorrt-rtx"}, "Triton runs those of tensorrt only"),
    ):
        replace(metadata, **change).save(tmp_path / "e.engine")
        with pytest.raises(UserError, match=why):
            write_triton_repository(bundle, tmp_path / "models", engines=[tmp_path / "e.engine"])
        assert not (tmp_path / "models").exists()
