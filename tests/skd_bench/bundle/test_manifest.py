import hashlib
import json
import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skd_bench.bundle.manifest import SCHEMA, Artefact, Manifest, SampleClip, resolve_bundle_path
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.video.types import Preprocessing, Sampling

MODEL, README = b"\x08\x0a model bytes", b"# hello\n"


def sha(data):
    return hashlib.sha256(data).hexdigest()


def example(**more):
    fields = {
        "schema": SCHEMA,
        "name": "motion",
        "created_by": "skd-edge 0.1.0",
        "classes": ["left", "right"],
        "contract": "float_clip",
        "sampling": Sampling(8, "dense", 2),
        "preprocess": Preprocessing(32, 48, "pad", (0.4, 0.5, 0.6), (0.2, 0.25, 1.0)),
        "default": "wide.fp32.onnx",
        "artefacts": [Artefact("wide.fp32.onnx", sha(MODEL), len(MODEL), "fp32", "ort", "wide", ["teacher", "wide"])],
        "documents": {"README.md": sha(README)},
    }
    return Manifest(**(fields | more))


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "wide.fp32.onnx").write_bytes(MODEL)
    (folder / "README.md").write_bytes(README)
    example().save(folder)
    return folder


def rewrite(bundle, change):
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_what_is_saved_is_loaded(bundle):
    manifest = example(licences={"data": "CC0 é"}, provenance={"seed": 1, "nested": {"a": [1.5, None, True]}})
    manifest.save(bundle)
    assert Manifest.load(bundle) == manifest
    assert manifest.find_artefact().student == "wide"
    with pytest.raises(UserError, match=r"no artefact 'x'.*wide.fp32.onnx"):
        manifest.find_artefact("x")


def test_intact_bundle_has_no_problems(bundle):
    assert find_bundle_problems(bundle) == []


@pytest.mark.parametrize("file", ["wide.fp32.onnx", "README.md"])
@pytest.mark.parametrize("how", ["flip", "longer", "gone"])
def test_tampering_is_found(bundle, file, how):
    path = bundle / file
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data + b"x" if how == "longer" else bytes([data[0] ^ 1]) + data[1:])
    (problem,) = find_bundle_problems(bundle)
    assert problem.startswith(file)


@pytest.mark.parametrize(
    ("name", "data", "mode", "words"),
    [
        ("run.sh", b"echo", 0o644, "is a .sh file"),
        ("sub/evil.SO", b"", 0o644, "is a .SO file"),
        ("notes.txt", b"hello", 0o755, "executable bit"),
        ("notes.txt", b"#!/bin/sh\n", 0o644, "begins like"),
        ("weights", b"\x80\x04\x95pickle", 0o644, "begins like"),
        ("notes.txt", b"hello", 0o644, None),
    ],
)
def test_what_can_be_executed_is_found(bundle, name, data, mode, words):
    path = bundle / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    problems = find_bundle_problems(bundle)
    assert problems == [] if words is None else (len(problems) == 1 and name in problems[0] and words in problems[0])


def test_links_are_found_and_those_that_lead_out_are_refused(bundle, tmp_path):
    os.symlink("README.md", bundle / "again.md")
    assert [p for p in find_bundle_problems(bundle) if "again.md is a link" in p]
    (tmp_path / "outside").write_bytes(MODEL)
    (bundle / "wide.fp32.onnx").unlink()
    os.symlink("../outside", bundle / "wide.fp32.onnx")
    with pytest.raises(UserError, match="leads out"):
        find_bundle_problems(bundle)


CLIMBING = ["../x", "/etc/passwd", "a/../../x", "..", "", ".", "a//b", "C:/x", "a\\..\\b", "./x", "x\0"]


@pytest.mark.parametrize("file", CLIMBING)
@pytest.mark.parametrize("where", ["artefact", "sample", "document"])
def test_names_that_climb_are_refused(bundle, file, where):
    def change(data):
        if where == "artefact":
            data["artefacts"][0]["file"] = data["default"] = file
        elif where == "sample":
            data["samples"] = [{"file": file, "sha256": sha(b""), "bytes": 0, "label": "left"}]
        else:
            data["documents"] = {file: sha(b"")}

    rewrite(bundle, change)
    with pytest.raises(UserError, match="no plain path inside"):
        Manifest.load(bundle)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.text(max_size=20), st.lists(st.sampled_from(["..", ".", "a", "", "/", "\\"])).map("/".join)))
def test_no_name_ever_leads_out(bundle, name):
    try:
        path = resolve_bundle_path(bundle, name)
    except ValueError:
        return
    assert path.resolve().is_relative_to(bundle.resolve())
    assert path.resolve() != bundle.resolve()


def test_newer_schema_is_refused_with_the_way_out(bundle):
    rewrite(bundle, lambda data: data.update(schema=SCHEMA + 1, surprise="of the future"))
    with pytest.raises(UserError, match="install a newer skd-edge"):
        Manifest.load(bundle)


@pytest.mark.parametrize("half", ["no manifest", "cut manifest", "empty manifest", "no folder"])
def test_half_written_bundle_is_refused(bundle, half):
    path = bundle / "manifest.json"
    if half == "no manifest":
        path.unlink()
    elif half == "cut manifest":
        path.write_bytes(path.read_bytes()[:200])
    elif half == "empty manifest":
        path.write_bytes(b"")
    for call in (Manifest.load, find_bundle_problems):
        with pytest.raises(UserError, match=r"no bundle|malformed"):
            call(bundle / "x" if half == "no folder" else bundle)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("classes"), "'classes' is missing"),
        (lambda d: d.update(extra=1), "'extra' is not known"),
        (lambda d: d["sampling"].update(frames="8"), r"'sampling.frames' is '8'; it must be int"),
        (lambda d: d["sampling"].update(frames=0), "frames >= 1"),
        (lambda d: d["sampling"].update(frames=True), "'sampling.frames'"),
        (lambda d: d["preprocess"].update(fit="zoom"), "'preprocess.fit' is 'zoom'"),
        (lambda d: d["preprocess"].update(std=[1, 1]), "'preprocess.std'"),
        (lambda d: d["preprocess"].update(mean=[10**400, 0, 0]), r"'preprocess.mean\[0\]'"),
        (lambda d: d["artefacts"][0].update(precision="fp4"), r"'artefacts\[0\].precision'"),
        (lambda d: d["artefacts"][0].update(sha256="A" * 64), "proper sha256"),
        (lambda d: d.update(default="other.onnx"), "no artefact of the bundle"),
        (lambda d: d.update(artefacts=d["artefacts"] * 2), "named twice"),
        (lambda d: d.update(classes=["a", "a"]), "different names"),
        (lambda d: d.update(classes=[]), "different names"),
        (lambda d: d.update(schema="1"), "'schema' is '1'"),
        (lambda d: d.update(schema=0), "'schema' is 0"),
        (lambda d: d.update(samples=[{"file": "s", "sha256": sha(b""), "bytes": 1, "label": "up"}]), "class 'up'"),
    ],
)
def test_malformed_manifests_say_where(bundle, change, words):
    rewrite(bundle, change)
    with pytest.raises(UserError, match=words) as caught:
        Manifest.load(bundle)
    assert "manifest.json is malformed" in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", '{"schema": NaN}', "[" * 100_000, '"\\ud800', "nul"])
def test_what_is_no_json_object_is_refused(bundle, text):
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="malformed"):
        Manifest.load(bundle)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.sampled_from(sorted(example().to_json())), JSON)
def test_any_value_anywhere_loads_or_gets_a_message(bundle, key, value):
    example().save(bundle)
    rewrite(bundle, lambda data: data.update({key: value}))
    message = str(bundle)
    try:
        Manifest.load(bundle)
    except UserError as error:
        message = str(error)
    assert str(bundle) in message


def test_saving_a_contradiction_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no artefact"):
        replace(example(), default="x").save(tmp_path)
    with pytest.raises(ValueError, match="plain path"):
        replace(example(), samples=[SampleClip("../x", sha(b""), 0, "left")]).save(tmp_path)
    assert not list(tmp_path.iterdir())
