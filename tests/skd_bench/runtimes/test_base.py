"""The checks that all runtimes share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_bench.runtimes import find_runtime
from skd_bench.runtimes.base import (
    TensorSpec,
    check_clip,
    check_load_arguments,
    check_logits,
    first_error_line,
    make_random_clip,
)

CLIP = TensorSpec("clip", (None, 3, 2, 4, 4), "float32")


@given(st.integers(1, 9))
def test_a_dynamic_axis_accepts_every_length(tmp_path_factory, batch):
    check_clip(tmp_path_factory.getbasetemp(), CLIP, np.zeros((batch, 3, 2, 4, 4), np.float32))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 3, 2, 4), "float32"),
        ((1, 3, 2, 4, 5), "float32"),
        ((0, 3, 2, 4, 4), "float32"),
        ((1, 3, 2, 4, 4), "float64"),
        ((1, 3, 2, 4, 4), "uint8"),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused(tmp_path, shape, dtype):
    with pytest.raises(UserError, match=r"n\.onnx takes float32 \(None, 3, 2, 4, 4\), not .*preprocessing"):
        check_clip(tmp_path / "n.onnx", CLIP, np.zeros(shape, dtype))


def test_a_file_and_at_least_one_thread_are_required(tmp_path):
    (tmp_path / "n.onnx").touch()
    assert check_load_arguments(tmp_path / "n.onnx", 1) == tmp_path / "n.onnx"
    with pytest.raises(UserError, match="at least 1 thread, not 0"):
        check_load_arguments(tmp_path / "n.onnx", 0)
    for path in (tmp_path, tmp_path / "missing.onnx"):
        with pytest.raises(UserError, match="does not exist, or is not a file"):
            check_load_arguments(path, 1)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((None, 3), "float16", "must be float32"),
        ((None, 3, 1), "float32", "must be float32"),
        ((1, None), "float32", "dynamic number of classes"),
    ],
)
def test_an_output_that_cannot_be_logits_is_refused(tmp_path, shape, dtype, message):
    check_logits(tmp_path, TensorSpec("logits", (None, 3), "float32"))
    with pytest.raises(UserError, match=message):
        check_logits(tmp_path, TensorSpec("logits", shape, dtype))


def test_an_error_without_a_message_is_described_by_its_type():
    assert first_error_line(ValueError("\n first \nsecond")) == "first "
    assert first_error_line(MemoryError()) == "MemoryError"


def test_a_random_clip_fits_the_network_and_is_always_the_same(network, tmp_path):
    session = find_runtime("ort").load(network(tmp_path / "n.onnx"), threads=1)
    clip = make_random_clip(session)
    assert (clip.shape, clip.dtype) == ((1, 3, 4, 16, 16), np.float32)
    np.testing.assert_array_equal(clip, make_random_clip(session))
    assert session.run(clip).shape == (1, 3)
