"""The reference of recipe keys, from the JSON schema: python docs/generate_recipes_md.py writes docs/recipes.md.

tests/test_recipes.py fails where the file is not what this writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skd_bench.files import write_atomic
from skd_edge.recipe.loader import recipe_schema

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/recipes.md"

Schema = dict[str, Any]

# Words for keys whose field has none in skd_edge/recipe*.py.
NOTES = {
    ".name": "names the run folder and the bundle",
    ".seed": "draws splits, label noise, first weights and the order of batches",
    ".data": "where the clips come from; `kind` says which ([data.md](data.md) has an example of each)",
    ".clip": "what the network is given of a video; a mapping, below",
    ".assistants": "stepping stones between teacher and student",
    ".students": "what could be deployed",
    "TableData.root": "as above",
    "TableData.val": "rows of the trusted validation set",
    "TableData.test": "rows of the untouched test set",
    "ListData.root": "as above",
    "ListData.train": "file with the training lines, relative to root",
    "ListData.val": "file of the trusted validation set",
    "ListData.test": "file of the untouched test set",
    "KineticsData.train": "the training CSV, relative to root",
    "KineticsData.val": "the trusted validation CSV",
    "KineticsData.test": "the untouched test CSV",
    "ShardData.root": "folder of the shards",
    "ShardData.val": "the trusted validation shards",
    "ShardData.test": "the untouched test shards",
    "ClipSettings.sampling": "uniform: the middle of each of `frames` equal parts; dense: `stride` apart around the middle",
    "ClipSettings.fit": "crop: cover and cut; stretch: ignore the aspect; pad: fit inside, fill with the mean colour",
    "ClipSettings.mean": "subtracted from each channel (0 to 1)",
    "ClipSettings.std": "each channel is divided by it",
    "AugmentationSettings.brightness": "largest random offset, as a share of white",
    "AugmentationSettings.contrast": "largest random change of gain",
    "NetworkSpec.family": "block type: ResNet basic block, or MobileNetV2 inverted residual",
    "NetworkSpec.depths": "blocks of each substage; equally many substages in every network",
    "NetworkSpec.temporal": "what sees motion: nothing, TSM shift, or a 3x1x1 convolution",
    "NetworkSpec.name": "unique in the recipe",
    "Teacher.family": "as for every network",
    "TrainingSettings.teacher_epochs": "epochs of the teacher on the weak labels",
    "TrainingSettings.batch": "clips of a batch",
    "TrainingSettings.rate": "peak learning rate",
    "TrainingSettings.weight_decay": "of AdamW",
    "LossSettings.temperature": "of the KL on the logits",
    "BenchmarkSettings.threads": "threads a query may use",
    "BenchmarkSettings.processes": "fresh processes, one after the other",
    "SelectionRule.min_accuracy": "constraint on the validation clips",
    "SelectionRule.min_macro_f1": "constraint on the validation clips",
    "SelectionRule.max_megabytes": "constraint on the file",
    "Licences.data": "as the manifest will say it",
    "Licences.weights": "as the manifest will say it",
}

HEAD = """\
# Recipe keys

Written by `python docs/generate_recipes_md.py` from the schema (`skd-edge schema`); do not edit by hand.

A recipe is a YAML file. Unknown keys are refused, with file, line and the closest valid key. Everything but `name`,
`data` and `students` has a default. `extends: other.yaml` starts from another recipe, mappings merged key by key, lists
replaced. `--set a.b=value` changes one setting from the command line; `students.0.width=16` reaches into a list. Paths
are relative to the recipe. A recipe of `recipes/` also goes by its bare name: `skd-edge plan quickstart`.

For an editor, write the schema to a file (`skd-edge schema > recipe.schema.json`) and put this on a recipe's first
line: `# yaml-language-server: $schema=recipe.schema.json`.
"""


def page() -> str:
    """The whole page, Markdown."""
    schema = recipe_schema()
    parts = [HEAD]
    parts.append(section("The whole", "", {"properties": schema["properties"], "required": schema["required"]}, schema))
    for key, value in schema["properties"].items():
        for ref in find_section_names(value):
            parts.append(section(f"`{title(key, ref, schema)}`", ref, schema["$defs"][ref], schema))
            if ref == "LabelSettings":
                parts.append(section("`labels.noise`", "NoiseSettings", schema["$defs"]["NoiseSettings"], schema))
            if ref == "Teacher":
                parts.append(section("`teacher.clip`", "TeacherClip", schema["$defs"]["TeacherClip"], schema))
            if ref == "TrainingSettings":
                parts.append(section("`training.losses`", "LossSettings", schema["$defs"]["LossSettings"], schema))
            if key == "assistants":
                parts[-1] = parts[-1].replace("`assistants`", "`assistants[]` and `students[]`", 1)
    return "\n".join(dict.fromkeys(parts))


def find_section_names(value: Schema) -> list[str]:
    """Names of the sections that a key holds; students are described with the assistants."""
    inner = value.get("items", value)
    found = [v["$ref"] for v in (inner, *inner.get("oneOf", ())) if "$ref" in v]
    return [] if value.get("minItems") and found else [f.rsplit("/", 1)[1] for f in found]


def title(key: str, ref: str, schema: Schema) -> str:
    """``data: {kind: csv}``, or the key alone."""
    kind = schema["$defs"][ref]["properties"].get("kind", {}) if key == "data" else {}
    kinds = [kind["const"]] if "const" in kind else kind.get("enum", [])
    return f"{key}: {{kind: {' | '.join(kinds)}}}" if kinds else key


def section(name: str, ref: str, part: Schema, schema: Schema) -> str:
    """One heading and one table."""
    lines = [f"## {name}", ""]
    if text := part.get("description"):
        lines += [" ".join(text.replace("``", "`").split()), ""]
    lines += ["| key | default | what |", "|---|---|---|"]
    for key, value in part["properties"].items():
        if key == "kind" and "const" in value:
            continue  # it is in the heading
        needed = key in part.get("required", ())
        description = value.get("description") or NOTES.get(f"{ref}.{key}") or inherited_description(ref, key)
        words = [w for w in (description or ("a mapping, below" if "$ref" in value else ""), limits(value)) if w]
        lines.append(f"| `{key}` | {'**required**' if needed else default(value)} | {'; '.join(words)} |")
    return "\n".join([*lines, ""])


def inherited_description(ref: str, key: str) -> str:
    """The words of a network for the teacher, which is one."""
    return NOTES.get(f"NetworkSpec.{key}", "") if ref == "Teacher" else ""


def default(value: Schema) -> str:
    """A default as it would be typed; a section's own keys have theirs."""
    if "default" not in value or "$ref" in value:
        return ""
    given = value["default"]
    return "" if given is None else f"`{given if isinstance(given, str) else json.dumps(given)}`"


def limits(value: Schema) -> str:
    """What a value (or each entry of a list) may be, in words."""
    one = next((v for v in value.get("anyOf", ()) if v.get("type") != "null"), value)
    one = {**one.get("items", {}), **one} if one.get("type") == "array" else one
    if choices := one.get("enum") or ([one["const"]] if "const" in one else None):
        return "one of " + ", ".join(f"`{c}`" for c in choices) if len(choices) > 1 else f"only `{choices[0]}` today"
    low, high, above = one.get("minimum"), one.get("maximum"), one.get("exclusiveMinimum")
    start = f"above {_number(above)}" if above is not None else f"from {_number(low)}" if low is not None else ""
    to = f"{' to' if above is None else ', at most'} {_number(high)}" if high is not None else ""
    words = [start + to] if start else []
    if even := one.get("multipleOf"):
        words.append("even" if even == 2 else f"a multiple of {even}")
    return ", ".join(words)


def _number(x: float) -> str:
    return str(int(x)) if x == int(x) else str(x)


if __name__ == "__main__":
    print(write_atomic(PAGE, page()) or PAGE)
