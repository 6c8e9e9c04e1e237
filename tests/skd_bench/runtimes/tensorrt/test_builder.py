"""Engines built for real with TensorRT-RTX; no GPU is needed."""

import json

import pytest

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.runtimes.cuda import why_cuda_unavailable
from skd_bench.runtimes.tensorrt.builder import SUPPORTED_SMS, BuildOptions, build_engine
from skd_bench.runtimes.tensorrt.engine_file import metadata_path, read_engine_metadata
from skd_bench.runtimes.tensorrt.library import (
    FLAVOURS,
    find_installed_modules,
    import_library,
    read_installed_version,
)

RTX = "tensorrt-rtx"
pytestmark = pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)


def test_an_engine_and_its_metadata(network, tmp_path):
    source, engine = network(tmp_path / "netz ü.onnx"), tmp_path / "out" / "netz.engine"
    steps = []
    metadata = build_engine(source, engine, runtime=RTX, sms=[89, 86], progress=lambda *step: steps.append(step))
    assert read_engine_metadata(engine) == metadata
    assert (metadata.sha256, metadata.bytes) == (sha256_file(engine), engine.stat().st_size)
    assert (metadata.source, metadata.source_sha256) == ("netz ü.onnx", sha256_file(source))
    assert (metadata.state, metadata.sms, metadata.runtime) == ("built, not run", [86, 89], RTX)
    assert metadata.version == read_installed_version(FLAVOURS[RTX]) == import_library(RTX).version
    assert (metadata.input, metadata.shape, metadata.dtype) == ("clip", [3, 4, 16, 16], "float32")
    assert (metadata.output, metadata.classes, metadata.batches) == ("logits", 3, [1, 1, 8])
    assert (metadata.gpu is None) == (why_cuda_unavailable() is not None)
    assert "TF32" not in metadata.flags  # an FP32 file stays FP32
    assert "version_compatible" in json.loads(metadata_path(engine).read_text())
    assert steps[-1][0] == steps[-1][1] > 0
    assert all(done < known for done, known in steps[:-1])


def test_a_fixed_batch_size_becomes_the_engines(tmp_path, model):
    metadata = build_engine(model(tmp_path / "m.onnx", batch=2), tmp_path / "e", runtime=RTX, sms=[80])
    assert metadata.batches == [2, 2, 2]
    assert metadata.sms == [80]


def test_turing_does_not_support_fp32(tmp_path, model):
    with pytest.raises(UserError, match=r"cannot build .* for SM75: .*not supported.*--precision fp16"):
        build_engine(model(tmp_path / "m.onnx"), tmp_path / "e", runtime=RTX, sms=[75])
    assert not (tmp_path / "e").exists()


def test_an_exception_in_progress_stops_the_build(network, tmp_path):
    def stop(done, known):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(network(tmp_path / "n.onnx"), tmp_path / "e" / "n.engine", runtime=RTX, sms=[86], progress=stop)
    assert not (tmp_path / "e").exists()


def test_an_unsupported_gpu_is_refused(network, tmp_path):
    with pytest.raises(UserError, match=r"builds for SM75, SM80, .*SM120.*, but not for SM52"):
        build_engine(network(tmp_path / "n.onnx"), tmp_path / "e", runtime=RTX, sms=[86, 52])
    assert set(SUPPORTED_SMS) <= set(range(75, 121))


@pytest.mark.skipif(why_cuda_unavailable() is None, reason="a GPU is here to build for")
def test_without_a_gpu_a_target_is_required(network, tmp_path):
    with pytest.raises(UserError, match=r"has no GPU to build for.*--sm 75"):
        build_engine(network(tmp_path / "n.onnx"), tmp_path / "e", runtime=RTX)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (BuildOptions(batches=(2, 1, 3)), "smallest, best and largest"),
        (BuildOptions(batches=(0, 1, 3)), "smallest, best and largest"),
        (BuildOptions(workspace_bytes=1000), "below 1 MiB"),
    ],
)
def test_wrong_options_are_refused(network, tmp_path, options, why):
    with pytest.raises(UserError, match=why):
        build_engine(network(tmp_path / "n.onnx"), tmp_path / "e", runtime=RTX, sms=[86], options=options)


def test_an_unknown_runtime_is_refused(network, tmp_path):
    with pytest.raises(UserError, match="'ort' is not a TensorRT runtime"):
        build_engine(network(tmp_path / "n.onnx"), tmp_path / "e", runtime="ort", sms=[86])
