"""The metadata beside an engine, and the engines that it refuses; neither TensorRT nor a GPU is needed."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.runtimes.tensorrt.engine_file import (
    SCHEMA,
    STATE_BUILT,
    EngineMetadata,
    TargetMachine,
    format_rebuild_command,
    metadata_path,
    read_engine_metadata,
    why_incompatible,
)

METADATA = EngineMetadata(
    schema=SCHEMA,
    state=STATE_BUILT,
    runtime="tensorrt-rtx",
    version="1.7.1.116",
    sms=[86, 89],
    sha256="0" * 64,
    bytes=6,
    source="my net.onnx",
    source_sha256="1" * 64,
    input="clip",
    shape=[3, 4, 16, 16],
    dtype="float32",
    output="logits",
    classes=5,
    batches=[1, 1, 8],
    layers=12,
    flags=[],
    workspace_bytes=1 << 30,
    version_compatible=False,
    build_seconds=0.5,
    gpu=None,
)
MACHINE = TargetMachine("tensorrt-rtx", "1.7.1.116", 89)


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "ein Netz.engine"
    path.write_bytes(b"engine")
    replace(METADATA, sha256=sha256_file(path)).save(path)
    return path


def test_metadata_is_read_as_it_was_written(engine):
    assert read_engine_metadata(engine) == replace(METADATA, sha256=sha256_file(engine))


def test_a_changed_engine_is_refused(engine):
    engine.write_bytes(b"engina")
    with pytest.raises(
        UserError, match=r"was changed or only partly copied.*skd-edge build 'my net.onnx'.*--sm 86 --sm 89"
    ):
        read_engine_metadata(engine)


def test_an_engine_without_metadata_is_refused(engine):
    metadata_path(engine).unlink()
    with pytest.raises(UserError, match=r"ein Netz\.engine has no metadata file.*skd-edge build"):
        read_engine_metadata(engine)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schema": SCHEMA + 1}, f"schema {SCHEMA + 1}"),
        ({"sms": "86"}, "'sms'"),
        ({"sms": [True]}, "'sms"),
        ({"surprise": 1}, "'surprise' is not a known key"),
    ],
)
def test_metadata_of_another_layout_is_refused(engine, change, word):
    path = metadata_path(engine)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=word):
        read_engine_metadata(engine)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff"])
def test_metadata_that_is_not_a_json_object_is_refused(engine, text):
    metadata_path(engine).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"ein Netz\.engine"):
        read_engine_metadata(engine)


@pytest.mark.parametrize(
    ("here", "why"),
    [
        (replace(MACHINE, sm=75), "built for SM86, SM89, and this GPU is SM75"),
        (replace(MACHINE, version="1.8.0.1"), "built by tensorrt-rtx 1.7.1.116, and this machine has 1.8.0.1"),
        (replace(MACHINE, runtime="tensorrt"), "built for tensorrt-rtx, not for tensorrt"),
    ],
)
def test_an_engine_for_another_machine_is_refused_with_the_build_command(engine, here, why):
    reason = why_incompatible(METADATA, engine, here)
    assert why in reason
    assert reason.endswith(f"skd-edge build 'my net.onnx' --runtime {here.runtime} --sm {here.sm}")


def test_host_code_is_refused_unless_allowed(engine):
    embedding = replace(METADATA, version_compatible=True)
    assert "contains host code" in why_incompatible(embedding, engine, MACHINE)
    assert why_incompatible(embedding, engine, replace(MACHINE, version="1.9"), allow_host_code=True) is None
    assert why_incompatible(METADATA, engine, MACHINE, allow_host_code=True) is None


@given(
    st.builds(
        TargetMachine,
        st.sampled_from(["tensorrt", "tensorrt-rtx"]),
        st.sampled_from(["10.1", "1.7"]),
        st.integers(70, 125),
    ),
    st.lists(st.integers(70, 125), max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_only_an_engine_that_fits_in_everything_is_accepted(here, sms, compatible, allowed):
    metadata = replace(METADATA, version="1.7", sms=sms, version_compatible=compatible)
    fits = here.runtime == metadata.runtime and here.sm in sms and (allowed if compatible else here.version == "1.7")
    reason = why_incompatible(metadata, metadata_path, here, allow_host_code=allowed)
    assert (reason is None) == fits


def test_a_file_name_is_quoted_in_the_build_command():
    assert format_rebuild_command(replace(METADATA, source="a; rm -rf b.onnx")).startswith(
        "skd-edge build 'a; rm -rf b.onnx' "
    )


def test_an_ampere_plus_engine_is_accepted_from_ampere_on(engine):
    wide = replace(METADATA, ampere_plus=True)
    assert why_incompatible(wide, engine, replace(MACHINE, sm=120)) is None
    assert "this GPU is SM75" in str(why_incompatible(wide, engine, replace(MACHINE, sm=75)))


@pytest.mark.parametrize(("built", "here", "fits"), [(13020, 13000, True), (13020, 12080, False), (None, 12000, True)])
def test_a_driver_for_an_older_cuda_is_refused(engine, built, here, fits):
    reason = why_incompatible(replace(METADATA, driver=built), engine, replace(MACHINE, driver=here))
    assert (reason is None) == fits
    assert fits or "update the driver" in str(reason)
