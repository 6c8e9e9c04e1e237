"""Writes docs/recipes.md, the reference of all recipe keys, from the JSON schema: python docs/generate_recipes_md.py.

tests/test_recipes.py fails if the file is not up to date.
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

# Descriptions of keys whose fields in skd_edge/recipe/ have none.
NOTES = {
    ".name": "names the run folder and the bundle",
    ".seed": "seed of the random splits, label noise, initial weights and batch order",
    ".data": "where the clips come from; `kind` selects a section below ([data.md](data.md) has an example of each)",
    ".cross_validation": "how `crossval` divides the clips into folds ([running.md](running.md#cross-validation)); a "
    "mapping, below",
    ".clip": "how a video is converted to the network's input; a mapping, below",
    ".assistants": "networks between the teacher and the students in a cascade",
    ".students": "networks that can be chosen and deployed",
    "TableData.root": "folder of the videos",
    "TableData.val": "validation rows, by column, as `train`",
    "TableData.test": "test rows, by column, as `train`",
    "ListData.root": "folder of the videos",
    "ListData.train": "file with the lines of the training clips, relative to root",
    "ListData.val": "file with the lines of the validation clips",
    "ListData.test": "file with the lines of the test clips",
    "KineticsData.train": "CSV of the training clips, relative to root",
    "KineticsData.val": "CSV of the validation clips",
    "KineticsData.test": "CSV of the test clips",
    "ShardData.root": "folder of the shards",
    "ShardData.val": "the validation shards",
    "ShardData.test": "the test shards",
    "ClipSettings.sampling": "which frames are used: uniform: the middle of each of `frames` equal parts; dense: every "
    "`stride`th frame around the middle; segment: every `stride`th frame in the middle of each of `segments` parts",
    "ClipSettings.fit": "how a frame becomes a square: crop: resize and cut the longer side; stretch: change the "
    "aspect ratio; pad: resize and fill with the mean colour",
    "ClipSettings.mean": "is subtracted from each channel, for pixels from 0 to 1",
    "ClipSettings.std": "each channel is divided by it",
    "AugmentationSettings.brightness": "largest random offset, as a share of white",
    "AugmentationSettings.contrast": "largest random change of gain",
    "NetworkSpec.family": "block type: resnet: basic block of ResNet; mobile: inverted residual of MobileNetV2",
    "NetworkSpec.depths": "number of blocks in each substage; all networks need the same number of substages",
    "NetworkSpec.name": "unique in the recipe",
    "Teacher.family": "as for the other networks",
    "TrainingSettings.teacher_epochs": "epochs of the first training of the teacher, on the weak labels",
    "TrainingSettings.batch": "number of clips in a batch",
    "TrainingSettings.rate": "peak learning rate",
    "TrainingSettings.weight_decay": "weight decay of AdamW",
    "LossSettings.temperature": "temperature of the loss on the logits",
    "BenchmarkSettings.threads": "number of threads for a query",
    "BenchmarkSettings.processes": "number of new processes that repeat the benchmark, one after the other",
    "SelectionRule.min_accuracy": "lowest accuracy on the validation clips",
    "SelectionRule.min_macro_f1": "lowest macro F1 score on the validation clips",
    "SelectionRule.max_megabytes": "largest size of the file, megabytes",
    "Licences.data": "licence of the data, as written into the manifest",
    "Licences.weights": "licence of the weights, as written into the manifest",
}

HEAD = """\
# Recipe keys

Written by `python docs/generate_recipes_md.py` from the schema (`skd-edge schema`); do not edit by hand.

A recipe is a YAML file. An unknown key is an error, which names file, line and the most likely valid key. Every key
except `name`, `data` and `students` has a default. `extends: other.yaml` starts from another recipe: mappings are
merged key by key, lists are replaced. `--set a.b=value` changes one setting on the command line;
`students.0.width=16` changes an entry of a list. Paths are relative to the recipe. A recipe in `recipes/` can be given
by its name alone: `skd-edge plan quickstart`.

For completion in an editor, write the schema to a file (`skd-edge schema > recipe.schema.json`) and make this the
first line of a recipe: `# yaml-language-server: $schema=recipe.schema.json`.
"""


def page() -> str:
    """The whole page, as Markdown."""
    schema = recipe_schema()
    parts = [HEAD]
    parts.append(section("Top level", "", {"properties": schema["properties"], "required": schema["required"]}, schema))
    for key, value in schema["properties"].items():
        for ref in find_section_names(value):
            parts.append(section(f"`{title(key, ref, schema)}`", ref, schema["$defs"][ref], schema))
            if ref == "LabelSettings":
                parts.append(section("`labels.noise`", "NoiseSettings", schema["$defs"]["NoiseSettings"], schema))
            if ref == "Teacher":
                parts.append(section("`teacher.clip`", "TeacherClip", schema["$defs"]["TeacherClip"], schema))
            if ref == "BenchmarkSettings":
                parts.append(section("`bench.build`", "BuildSettings", schema["$defs"]["BuildSettings"], schema))
            if ref == "TrainingSettings":
                parts.append(section("`training.losses`", "LossSettings", schema["$defs"]["LossSettings"], schema))
            if key == "assistants":
                parts[-1] = parts[-1].replace("`assistants`", "`assistants[]` and `students[]`", 1)
    return "\n".join(dict.fromkeys(parts))


def find_section_names(value: Schema) -> list[str]:
    """Names of the models that a key can contain; none for students, which are described with the assistants."""
    inner = value.get("items", value)
    found = [v["$ref"] for v in (inner, *inner.get("oneOf", ()), *inner.get("anyOf", ())) if "$ref" in v]
    return [] if value.get("minItems") and found else [f.rsplit("/", 1)[1] for f in found]


def title(key: str, ref: str, schema: Schema) -> str:
    """The heading of a section: ``data: {kind: csv}`` for a kind of data, otherwise the key."""
    kind = schema["$defs"][ref]["properties"].get("kind", {}) if key == "data" else {}
    kinds = [kind["const"]] if "const" in kind else kind.get("enum", [])
    return f"{key}: {{kind: {' | '.join(kinds)}}}" if kinds else key


def section(name: str, ref: str, part: Schema, schema: Schema) -> str:
    """One section of the page: heading, description and table."""
    lines = [f"## {name}", ""]
    if text := part.get("description"):
        lines += [" ".join(text.replace("``", "`").split()), ""]
    lines += ["| key | default | meaning |", "|---|---|---|"]
    for key, value in part["properties"].items():
        if key == "kind" and "const" in value:
            continue  # it is in the heading
        needed = key in part.get("required", ())
        description = value.get("description") or NOTES.get(f"{ref}.{key}") or inherited_description(ref, key)
        words = [w for w in (description or ("a mapping, below" if "$ref" in value else ""), limits(value)) if w]
        lines.append(f"| `{key}` | {'**required**' if needed else default(value)} | {'; '.join(words)} |")
    return "\n".join([*lines, ""])


def inherited_description(ref: str, key: str) -> str:
    """For a key of the teacher without its own description: that of the same key of a network."""
    return NOTES.get(f"NetworkSpec.{key}", "") if ref == "Teacher" else ""


def default(value: Schema) -> str:
    """A default as it is written in a recipe; empty for a section, whose keys have their own defaults."""
    if "default" not in value or "$ref" in value:
        return ""
    given = value["default"]
    return "" if given is None else f"`{given if isinstance(given, str) else json.dumps(given)}`"


def limits(value: Schema) -> str:
    """The allowed values of a key, or of each entry of a list, as text."""
    one = next((v for v in value.get("anyOf", ()) if v.get("type") != "null"), value)
    one = {**one.get("items", {}), **one} if one.get("type") == "array" else one
    if choices := one.get("enum") or ([one["const"]] if "const" in one else None):
        return "one of " + ", ".join(f"`{c}`" for c in choices) if len(choices) > 1 else f"only `{choices[0]}`"
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
