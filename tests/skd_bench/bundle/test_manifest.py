import hashlib
import json
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skd_bench.bundle.manifest import ENGINES_SCHEMA, Manifest, SampleClip, resolve_bundle_path
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError


def sha(data):
    return hashlib.sha256(data).hexdigest()


def rewrite(small_bundle, change):
    path = small_bundle / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_what_is_saved_is_loaded(small_bundle, example):
    manifest = example(licences={"data": "CC0 é"}, provenance={"seed": 1, "nested": {"a": [1.5, None, True]}})
    manifest.save(small_bundle)
    assert Manifest.load(small_bundle) == manifest
    assert manifest.find_artefact().student == "wide"
    with pytest.raises(UserError, match=r"no artefact 'x'.*wide.fp32.onnx"):
        manifest.find_artefact("x")


LEADING_OUT = ["../x", "/etc/passwd", "a/../../x", "..", "", ".", "a//b", "C:/x", "a\\..\\b", "./x", "x\0"]


@pytest.mark.parametrize("file", LEADING_OUT)
@pytest.mark.parametrize("where", ["artefact", "sample", "document"])
def test_names_that_lead_out_are_refused(small_bundle, file, where):
    def change(data):
        if where == "artefact":
            data["artefacts"][0]["file"] = data["default"] = file
        elif where == "sample":
            data["samples"] = [{"file": file, "sha256": sha(b""), "bytes": 0, "label": "left"}]
        else:
            data["documents"] = {file: sha(b"")}

    rewrite(small_bundle, change)
    with pytest.raises(UserError, match="not a plain relative path inside"):
        Manifest.load(small_bundle)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.text(max_size=20), st.lists(st.sampled_from(["..", ".", "a", "", "/", "\\"])).map("/".join)))
def test_no_name_ever_leads_out(small_bundle, name):
    try:
        path = resolve_bundle_path(small_bundle, name)
    except ValueError:
        return
    assert path.resolve().is_relative_to(small_bundle.resolve())
    assert path.resolve() != small_bundle.resolve()


def test_a_newer_schema_is_refused_with_a_solution(small_bundle):
    rewrite(small_bundle, lambda data: data.update(schema=ENGINES_SCHEMA + 1, surprise="of the future"))
    with pytest.raises(UserError, match="install a newer skd-edge"):
        Manifest.load(small_bundle)


@pytest.mark.parametrize("damage", ["no manifest", "cut manifest", "empty manifest", "no folder"])
def test_an_incomplete_bundle_is_refused(small_bundle, damage):
    path = small_bundle / "manifest.json"
    if damage == "no manifest":
        path.unlink()
    elif damage == "cut manifest":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "empty manifest":
        path.write_bytes(b"")
    for call in (Manifest.load, find_bundle_problems):
        with pytest.raises(UserError, match=r"no bundle found|malformed"):
            call(small_bundle / "x" if damage == "no folder" else small_bundle)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("classes"), "'classes' is missing"),
        (lambda d: d.update(extra=1), "'extra' is not a known key"),
        (lambda d: d["sampling"].update(frames="8"), r"'sampling.frames' is '8'; it must be int"),
        (lambda d: d["sampling"].update(frames=0), "frames >= 1"),
        (lambda d: d["sampling"].update(frames=True), "'sampling.frames'"),
        (lambda d: d["preprocess"].update(fit="zoom"), "'preprocess.fit' is 'zoom'"),
        (lambda d: d["preprocess"].update(std=[1, 1]), "'preprocess.std'"),
        (lambda d: d["preprocess"].update(mean=[10**18, "0", 0]), r"'preprocess.mean\[1\]'"),
        (lambda d: d["preprocess"].update(mean=[10**400, 0, 0]), "too large a whole number"),
        (
            lambda d: d["documents"].update({"x" * 5000: sha(b"")}),
            r"the name 'xxx.{50,60} is longer than file systems take",
        ),
        (lambda d: d["documents"].update({"a/" * 600 + "b": sha(b"")}), "is longer than file systems take"),
        (lambda d: d["documents"].update({"a\x1b[2K": sha(b"")}), r"'a\\x1b\[2K' is not a plain relative path"),
        (lambda d: d.update({"x" * 5000: 1}), r"'xxx.{50,60} is not a known key"),
        (lambda d: d["documents"].update({f"{i}.md": sha(b"") for i in range(1000)}), "a bundle has at most 1000"),
        (lambda d: d["artefacts"][0].update(precision="fp4"), r"'artefacts\[0\].precision'"),
        (lambda d: d["artefacts"][0].update(sha256="A" * 64), "valid sha256"),
        (lambda d: d.update(default="other.onnx"), "not an artefact of the bundle"),
        (lambda d: d.update(artefacts=d["artefacts"] * 2), "listed twice"),
        (lambda d: d.update(classes=["a", "a"]), "different names"),
        (lambda d: d.update(classes=[]), "different names"),
        (lambda d: d.update(schema="1"), "'schema' is '1'"),
        (lambda d: d.update(schema=0), "'schema' is 0"),
        (lambda d: d.update(samples=[{"file": "s", "sha256": sha(b""), "bytes": 1, "label": "up"}]), "class 'up'"),
    ],
)
def test_errors_of_malformed_manifests_give_the_place(small_bundle, change, words):
    rewrite(small_bundle, change)
    with pytest.raises(UserError, match=words) as caught:
        Manifest.load(small_bundle)
    assert "manifest.json is malformed" in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", '{"schema": NaN}', "[" * 100_000, '"\\ud800', "nul"])
def test_a_file_that_is_not_a_json_object_is_refused(small_bundle, text):
    (small_bundle / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="malformed"):
        Manifest.load(small_bundle)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.sampled_from(sorted(field.name for field in fields(Manifest))), JSON)
def test_any_value_anywhere_loads_or_raises_a_user_error(small_bundle, example, key, value):
    example().save(small_bundle)
    rewrite(small_bundle, lambda data: data.update({key: value}))
    message = str(small_bundle)
    try:
        Manifest.load(small_bundle)
    except UserError as error:
        message = str(error)
    assert str(small_bundle) in message


def test_saving_a_contradiction_is_refused(tmp_path, example):
    with pytest.raises(ValueError, match="not an artefact"):
        replace(example(), default="x").save(tmp_path)
    with pytest.raises(ValueError, match="plain relative path"):
        replace(example(), samples=[SampleClip("../x", sha(b""), 0, "left")]).save(tmp_path)
    assert not list(tmp_path.iterdir())
