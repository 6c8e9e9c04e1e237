"""Recipes from files: valid ones, mistakes, and the line that a message names."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest

from skd_bench.errors import UsageError
from skd_edge.recipe.data import FolderData, GeneratedData
from skd_edge.recipe.loader import load_recipe, make_section_from_options, recipe_schema, resolved_yaml, shipped_recipes
from skd_edge.recipe.schema import Recipe
from skd_edge.recipe.validation import iter_setting_paths

GOOD = """\
name: small
seed: 3
data: {kind: generated, train: 100}
students:
  - name: wide
    width: 16
  - {name: narrow, width: 8}
training:
  rate: 1e-3
choice:
  budget: 0.5 x teacher
"""
FOLDER = GOOD.replace("{kind: generated, train: 100}", "{kind: folder, root: ROOT}")


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str | bytes, name: str = "r.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def refusal(path: Path | str, overrides: tuple[str, ...] = (), **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(path, overrides, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_loads(write):
    recipe = load_recipe(write(GOOD))
    assert recipe.seed == 3
    assert recipe.training.rate == 1e-3
    assert [s.width for s in recipe.students] == [16, 8]


def test_round_trip(write):
    recipe = load_recipe(write(GOOD))
    assert load_recipe(write(resolved_yaml(recipe), "again.yaml")) == recipe


@pytest.mark.parametrize("root", ["a b/ü", "100%", "- x", "it's: a #path", "yes", "1e-3", "~x~", "日本", "a\u0085b"])
def test_round_trip_of_odd_paths(write, tmp_path, root):
    recipe = load_recipe(write(FOLDER.replace("ROOT", json.dumps(root))))
    assert isinstance(recipe.data, FolderData)
    assert recipe.data.root == tmp_path / root
    assert load_recipe(write(resolved_yaml(recipe), "elsewhere/again.yaml")) == recipe


def test_round_trip_of_a_path_that_looks_like_a_variable(write):
    recipe = load_recipe(write(FOLDER.replace("ROOT", '"${A}/x"')), env={"A": "/v/${B}"})
    assert recipe.data.root == Path("/v/${B}/x")
    env = {"A": "/v/${B}"}
    assert load_recipe(write(resolved_yaml(recipe), "again.yaml"), env=env) == recipe


@pytest.mark.parametrize(
    ("text", "value", "path", "resolved"),
    [
        ("${A}/x", "/secret/place", "/secret/place/x", "${A}/x"),
        ("/data/${A}/$${B}", "alice", "/data/alice/${B}", "/data/${A}/$${B}"),
        ("${A}", "/secret/place/", "/secret/place", "${A}"),
        ("${A}/../x", "sets", "HERE/x", "HERE/${A}/../x"),
        ("~/${A}", "sets", "HOME/sets", "~/${A}"),
    ],
)
def test_a_resolved_recipe_shows_the_name_of_a_variable_and_reads_it_anew(
    write, tmp_path, monkeypatch, text, value, path, resolved
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = path.replace("HERE", str(tmp_path)).replace("HOME", str(tmp_path / "home"))
    recipe = load_recipe(write(FOLDER.replace("ROOT", json.dumps(text))), env={"A": value})
    assert str(recipe.data.root) == path
    shown = resolved_yaml(recipe)
    assert resolved.replace("HERE", str(tmp_path)) in shown
    assert value not in shown
    again = write(shown, "elsewhere/again.yaml")
    assert load_recipe(again, env={"A": value}) == recipe
    other = load_recipe(again, env={"A": "/other" if value.startswith("/") else "other"})
    assert str(other.data.root) == path.replace(value.rstrip("/"), "/other" if value.startswith("/") else "other")
    with pytest.raises(UsageError, match="needs the environment variable A"):
        load_recipe(again, env={})


def test_a_changed_copy_of_a_recipe_still_shows_names(write):
    recipe = load_recipe(write(FOLDER.replace("ROOT", '"${A}/x"')), env={"A": "/secret"})
    changed = recipe.model_copy(update={"seed": 7})
    assert "${A}/x" in resolved_yaml(changed)
    assert "${A}/x" in resolved_yaml(pickle.loads(pickle.dumps(changed)))  # as Ray sends it to a worker


PASSWORDS = {
    "a list": "- hunter2\n- tr0ub4dor\n",
    "lines": "root:x:0:0:hunter2:/root:/bin/bash\ntr0ub4dor:x:1:1::/:/bin/sh\n",
    "settings": "hunter2=1\nPASSWORD=tr0ub4dor\n",
    "yaml": "hunter2: tr0ub4dor\nname: x\n",
    "no yaml": "a: {hunter2: [tr0ub4dor\n",
    "tag": "!!python/object:hunter2 tr0ub4dor\n",
    "alias": "a: &hunter2 tr0ub4dor\nb: *hunter2\n",
    "twice": "hunter2: 1\nhunter2: tr0ub4dor\n",
    "no text": "hunter2\x00\xff tr0ub4dor",
    "empty": "",
}


@pytest.mark.parametrize("kind", PASSWORDS)
def test_a_file_that_is_no_recipe_is_not_quoted(write, tmp_path, kind):
    (tmp_path / "secrets").write_bytes(PASSWORDS[kind].encode("latin-1"))
    with pytest.raises(UsageError, match=r"r\.yaml:1: extends: '.*secrets' is not a recipe") as caught:
        load_recipe(write("extends: secrets\nname: x\n"))
    assert "hunter2" not in str(caught.value)
    assert "tr0ub4dor" not in str(caught.value)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ messages
@pytest.mark.parametrize(
    ("old", "new", "where", "words"),
    [
        ("width: 16", "widht: 16", "r.yaml:6: students.0.widht", "did you mean 'width'"),
        ("width: 16", "epochs: 3", "r.yaml:6: students.0.epochs", "it exists as training.epochs"),
        ("width: 16", "width: wide", "r.yaml:6: students.0.width", "'wide'.*whole number"),
        ("width: 16", "width: true", "r.yaml:6: students.0.width", "True.*whole number"),
        ("width: 16", "width: 2", "r.yaml:6: students.0.width", "2 cannot.*greater than or equal to 4.*channels"),
        ("width: 16", "width: .nan", "r.yaml:6: students.0.width", "nan"),
        ("rate: 1e-3", "rate: .inf", "r.yaml:9: training.rate", "inf.*finite|inf.*less"),
        ("rate: 1e-3", "rate: " + "9" * 30, "r.yaml:9: training.rate", "less than or equal to 1"),
        ("rate: 1e-3", "rate: " + "9" * 5000, "r.yaml:9", "5000 digits"),
        ("rate: 1e-3", "rate: '0.1'", "r.yaml:9: training.rate", "'0.1'"),
        ("rate: 1e-3", "", "r.yaml:8: training", "no value is given"),
        ("kind: generated", "kind: genrated", "r.yaml:3: data.kind", "unknown kind 'genrated'; .* 'generated'"),
        ("kind: generated, ", "", "r.yaml:3: data.kind", "is missing"),
        ("{kind: generated, train: 100}", "{kind: folder}", "r.yaml:3: data", "data.root is missing"),
        ("{kind: generated, train: 100}", "7", "r.yaml:3: data", "7 cannot"),
        ("budget: 0.5 x teacher", "budget: 8 parsecs", "r.yaml:11: choice.budget", "'8 ms'"),
        ("name: small", "name: 2024", "r.yaml:1: name", "not text.*quotes"),
        ("name: small", "nam: small", "r.yaml:1: name", "is missing"),
        ("name: narrow", "name: wide", "r.yaml:7", "two networks are called 'wide'"),
        ("name: small", "name: small\nname: big", "r.yaml:2", "'name' is given twice"),
        ("name: small", "name: &a small\nlicences: {data: *a}", "r.yaml:2", "alias"),
        ("name: small", "name: !!python/object:os.system small", "r.yaml:1", "tag"),
        ("name: small", "name: small\n\tseed: 1", "r.yaml:2", "tab"),
        ("name: small", "name: [small", "r.yaml:", "not valid YAML"),
        ("name: small", "? [a]\n: 1\nname: small", "r.yaml:1", "key"),
        ("name: small", "---\nname: small\n---\na: 1", "r.yaml:3", "second document"),
        ("name: small", 'name: "\\uD800"', "r.yaml:1", "surrogate"),
        ("name: small", 'name: "\\UFFFFFFFF"', "r.yaml:1", "not valid YAML"),
        ("name: small", "name: small\x07", "r.yaml:1", "control character"),
        ("name: small", "name: small\n'[key]': 1", "r.yaml:2", "no such setting"),
        ("generated, train: 100", "generated, generated: 100", "r.yaml:3: data.generated", "no such setting"),
        ("students:", "students: []\nassistants:", "r.yaml:1", "students is an empty list"),
        ("choice:", "bench: {runtime: cuda}\nchoice:", "r.yaml:10: bench.runtime", "'cuda' is not one of ort, open"),
        ("choice:", "bench: {runtime: [ort, tensorflow]}\nchoice:", "r.yaml:10: bench.runtime.1", "not one of ort"),
        ("choice:", "bench: {runtime: [ort, ort]}\nchoice:", "r.yaml:10: bench.runtime", "ort is listed twice"),
        ("choice:", "bench: {runtime: []}\nchoice:", "r.yaml:10: bench.runtime", "at least 1"),
        ("choice:", "choice:\n  max_joules: 0", "r.yaml:11: choice.max_joules", "greater than 0"),
    ],
)
def test_refused_with_its_line(write, monkeypatch, tmp_path, old, new, where, words):
    monkeypatch.chdir(tmp_path)
    write(GOOD.replace(old, new, 1))
    message = refusal("r.yaml")
    assert where in message
    assert re.search(words, message), message


@pytest.mark.parametrize(
    ("written", "runtimes"),
    [("openvino", ("openvino",)), ("[openvino, ort]", ("openvino", "ort")), ("[ort]", ("ort",))],
)
def test_one_runtime_or_a_list(write, written, runtimes):
    recipe = load_recipe(write(f"{GOOD}bench: {{runtime: {written}}}\n"))
    assert recipe.bench.runtime == runtimes
    assert load_recipe(write(resolved_yaml(recipe), "again.yaml")) == recipe
    assert load_recipe(write(GOOD), [f"bench.runtime={written}"]).bench.runtime == runtimes
    assert load_recipe(write(GOOD)).bench.runtime == ("ort",)


def test_every_mistake_at_once(write):
    text = GOOD.replace("seed: 3", "seed: x").replace("width: 16", "widht: 16").replace("0.5 x", "0.5 y")
    message = refusal(write(text), ("clip.frames=0", "bench.x=1"))
    assert message.startswith("5 problems:")
    assert all(path in message for path in ("seed:", "students.0.widht", "choice.budget", "clip.frames", "bench.x"))
    assert "students: " not in message  # no message that the list is too short, besides those about its entries


def test_a_thousand_mistakes_are_one_readable_message(write):
    message = refusal(write(GOOD + "".join(f"key{i}: 1\n" for i in range(1000))))
    assert message.startswith("1000 problems:")
    assert len(message.splitlines()) < 30


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"# nothing\n", "empty"),
        (b"- a\n", "key: value"),
        (b"just text", "key: value"),
        ("name: ü".encode("latin-1"), "not UTF-8"),
        (GOOD.encode("utf-16"), "not UTF-8"),
        (b"#" * ((1 << 20) + 1), "larger than"),
        (b"[" * 900_000, "nested deeper"),
        (b"{a: " * 200_000, "nested deeper"),
        (b"- " * 100_000, "nested deeper"),
        (b"a: [" + b"1," * 12_000 + b"]", "more than 10000 values"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "alias"),
        (b"<<: {a: 1}\nname: x", "<<"),
    ],
)
def test_hostile_files(write, data, words):
    assert words in refusal(write(data))


def test_byte_order_mark_is_fine(write):
    assert load_recipe(write(b"\xef\xbb\xbf" + GOOD.encode())).name == "small"


def test_words_of_yaml_1_1_are_text(write):
    text = "{kind: csv, root: ., train: {split: [no, 01, 1.50]}, val: {split: [on]}, test: {split: [yes]}}"
    recipe = load_recipe(write(GOOD.replace("{kind: generated, train: 100}", text)))
    assert recipe.data.train == {"split": ["no", "01", "1.50"]}
    assert load_recipe(write(resolved_yaml(recipe), "again.yaml")) == recipe


def test_no_such_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no such recipe" in refusal("absent.yaml")
    assert "no such recipe" in refusal("nul\0byte.yaml")
    assert "no such recipe" in refusal("x" * 5000)
    assert "directory" in refusal(tmp_path)


# ------------------------------------------------------------------------------------------------ paths
def test_paths_are_relative_to_the_recipe_that_states_them(write, tmp_path):
    write(FOLDER.replace("ROOT", "videos"), "far/parent.yaml")
    child = write("extends: far/parent.yaml\nteacher: {checkpoint: t.safetensors}")
    recipe = load_recipe(child)
    assert recipe.data.root == tmp_path / "far/videos"
    assert recipe.teacher.checkpoint == tmp_path / "t.safetensors"


def test_home_and_variables(write):
    path = write(FOLDER.replace("ROOT", "'${CLIPS}/x'"))
    assert load_recipe(path, env={"CLIPS": "/data"}).data.root == Path("/data/x")
    assert load_recipe(path, ["data.root=~/v"], env={}).data.root == Path.home() / "v"


def test_unset_variable_names_itself_and_the_way_out(write):
    path = write(FOLDER.replace("ROOT", "'${CLIPS}/x'").replace("seed: 3", "seed: x"))
    message = refusal(path, env={})
    assert "data.root" in message
    assert "CLIPS" in message
    assert "--set data.root=" in message
    assert "seed: 'x'" in message  # the other mistake is reported too


def test_empty_path(write):
    assert "is not a path" in refusal(write(FOLDER.replace("ROOT", '""')))


def test_list_files_stay_relative_to_root(write):
    text = "{kind: list, root: /d, train: a.txt, val: '${L}/b.txt', test: c.txt}"
    data = load_recipe(write(GOOD.replace("{kind: generated, train: 100}", text)), env={"L": "/l"}).data
    assert (data.train, data.val) == (Path("a.txt"), Path("/l/b.txt"))


def test_csv_file_stays_relative_to_root(write):
    text = "{kind: csv, root: /d, file: sub/i.csv, train: {s: [a]}, val: {s: [b]}, test: {s: [c]}}"
    assert load_recipe(write(GOOD.replace("{kind: generated, train: 100}", text))).data.file == Path("sub/i.csv")


# ------------------------------------------------------------------------------------------------ extends
def test_extends_merges_deeply(write):
    write(GOOD, "base.yaml")
    recipe = load_recipe(write("extends: base.yaml\ntraining: {epochs: 2}\nname: child"))
    assert (recipe.name, recipe.training.epochs, recipe.training.rate, recipe.seed) == ("child", 2, 1e-3, 3)


def test_extends_with_another_kind_replaces_the_section(write):
    write(GOOD, "base.yaml")
    recipe = load_recipe(write("extends: base.yaml\ndata: {kind: folder, root: x}"))
    assert recipe.data.kind == "folder"


def test_an_error_in_the_parent_names_the_parent(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(GOOD.replace("width: 16", "widht: 16"), "base.yaml")
    write("extends: base.yaml\nseed: x")
    message = refusal("r.yaml")
    assert "base.yaml:6: students.0.widht" in message
    assert "r.yaml:2: seed" in message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"r.yaml": "extends: r.yaml"}, "circle"),
        ({"r.yaml": "extends: b.yaml", "b.yaml": "extends: ./x/../r.yaml", "x/y": ""}, "circle"),
        ({"r.yaml": "extends: [a]"}, "name of one recipe"),
        ({"r.yaml": "extends: ''"}, "name of one recipe"),
        ({"r.yaml": "extends: nowhere.yaml"}, r"r.yaml:1: extends: 'nowhere.yaml'"),
        ({"r.yaml": "extends: 0.yaml"} | {f"{i}.yaml": f"extends: {i + 1}.yaml" for i in range(20)}, "more than 8"),
    ],
)
def test_extends_refused(write, files, words):
    for name, text in files.items():
        write(text, name)
    assert re.search(words, refusal(write(files["r.yaml"])))


# ------------------------------------------------------------------------------------------------ --set
def test_set(write):
    sets = ["students.0.width=32", "training.losses.logits=0.5", "choice.budget=", "schedule.paths=[[], []]", "seed=7"]
    recipe = load_recipe(write(GOOD), sets)
    assert recipe.students[0].width == 32
    assert recipe.training.losses.logits == 0.5
    assert recipe.choice.budget is None
    assert recipe.schedule.paths == ((), ())
    assert recipe.seed == 7


def test_set_replaces_a_section(write):
    recipe = load_recipe(write(GOOD), ["data={kind: folder, root: /v}", "data.val=0.2"])
    assert recipe.data == FolderData(kind="folder", root=Path("/v"), val=0.2)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "key=value"),
        ("=3", "key=value"),
        ("a..b=3", "key=value"),
        ("sede=3", "--set sede=3: sede: no such setting; did you mean 'seed'"),
        ("seed=x", "--set seed=x: seed: 'x'"),
        ("seed.x=1", "has no 'x'"),
        ("students.9.width=16", "0 to 1, so there is no entry '9'"),
        ("students.-1.width=16", "0 to 1, so there is no entry '-1'"),
        ("students.²=16", "0 to 1"),
        ("seed=[1", "not valid YAML"),
        ("seed=*a", "alias"),
        ("seed=" + "[" * 5000, "nested deeper"),
        ("seed=\udcff", "not UTF-8"),
        (".".join("a" * 3000) + "=1", "no such setting"),
    ],
)
def test_set_refused(write, override, words):
    message = refusal(write(GOOD), (override,))
    assert "--set" in message
    assert words in message


# ------------------------------------------------------------------------------------------------ options, schema
def test_from_options():
    given = make_section_from_options(GeneratedData, {"kind": "generated", "train": 50, "val": None})
    assert given == GeneratedData(kind="generated", train=50)
    with pytest.raises(UsageError, match=r"--train: train: 3 cannot"):
        make_section_from_options(GeneratedData, {"kind": "generated", "train": 3})


def test_schema_names_every_setting():
    schema = recipe_schema()
    text = json.dumps(schema)
    assert "extends" in schema["properties"]
    assert schema["additionalProperties"] is False
    assert all(f'"{key.split(".")[-1]}"' in text for key in iter_setting_paths(Recipe))


def test_every_shipped_recipe_loads_by_its_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "quickstart" in shipped_recipes()

    class Everywhere(dict[str, str]):
        def get(self, key, default=None):
            return "/somewhere"

    for name in shipped_recipes():
        assert load_recipe(name, env=Everywhere()).students
