import pytest
import torch

from skd_bench.errors import UserError
from skd_export.artefacts import facts, make_artefacts

SHAPE, CLASSES = (4, 16, 16), ["left", "right", "up", "down", "still"]


def make(network, folder, calibration, precisions=("fp32", "int8"), **more):
    return make_artefacts(
        network, precisions, folder, clip_shape=SHAPE, classes=CLASSES, calibration=calibration, **more
    )


def state(folder):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.iterdir())}


def test_files_and_what_is_known_about_them(network, batches, tmp_path):
    paths = make(network, tmp_path, batches)
    assert {k: p.name for k, p in paths.items()} == {"fp32": "fp32.onnx", "int8": "int8.onnx"}
    assert facts(paths["int8"])["operators"]["QLinearConv"] == 4
    assert facts(paths["fp32"])["operators"]["Conv"] == 4


def test_second_call_touches_nothing(network, batches, tmp_path):
    make(network, tmp_path, batches)
    before = state(tmp_path)

    def never():
        raise AssertionError("calibration clips were asked for though the file is there")

    make(network, tmp_path, never)
    assert state(tmp_path) == before


@pytest.mark.parametrize("change", ["weights", "calibration", "damage", "range"])
def test_what_changed_is_made_again(network, batches, tmp_path, change):
    paths = make(network, tmp_path, batches, reduce_range=False)
    before = paths["int8"].read_bytes()
    more = {"reduce_range": False}
    if change == "weights":
        with torch.no_grad():
            network.head.weight.mul_(2)
    elif change == "calibration":
        more["calibration_key"] = "others"
    elif change == "range":
        more["reduce_range"] = True
    else:
        paths["int8"].write_bytes(before[:-1])
    asked = []
    make(network, tmp_path, lambda: asked.append(1) or batches(), **more)
    assert asked == [1]
    assert (paths["int8"].read_bytes() == before) == (change in ("calibration", "damage"))


def test_int8_alone_makes_its_source_too(network, batches, tmp_path):
    assert list(make(network, tmp_path, batches, ["int8"])) == ["int8"]
    assert (tmp_path / "fp32.onnx").is_file()


def test_impossible_wishes(network, tmp_path):
    with pytest.raises(UserError, match="calibration"):
        make(network, tmp_path, None, ["int8"])
    with pytest.raises(UserError, match="'int4' is not known"):
        make(network, tmp_path, None, ["int4"])
    with pytest.raises(UserError, match="nothing is noted"):
        facts(tmp_path / "fp32.onnx")
