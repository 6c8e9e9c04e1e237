"""What can be counted about the house: files by folder, circles, names, mirrors. tests/test_house.py holds the bounds.

python .ci/house.py          (prints the table)
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "skd_edge": ROOT / "skd_edge",
    "skd_export": ROOT / "export/skd_export",
    "skd_bench": ROOT / "bench/skd_bench",
}
# A private language: people say, tell, ask, keep, teach and hear; code prints, reports, requests, stores, trains.
BANNED_WORDS = frozenset({"said", "told", "asked", "kept", "taught", "heard"})


def modules() -> list[tuple[str, Path]]:
    """(package, file) of every module, without ``__init__``."""
    return [(name, f) for name, home in PACKAGES.items() for f in sorted(home.rglob("*.py")) if f.name != "__init__.py"]


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Every source file of the three packages, parsed."""
    for home in PACKAGES.values():
        for file in sorted(home.rglob("*.py")):
            yield file, ast.parse(file.read_text(encoding="utf-8"))


def files_in_root(package: str) -> int:
    """Source files that lie directly in a package, with ``__init__``."""
    return len(list(PACKAGES[package].glob("*.py")))


def files_by_folder() -> Counter[Path]:
    """Source files of each folder of the packages and the suites, with ``__init__``."""
    homes = [*PACKAGES.values(), ROOT / "bench/suites"]
    return Counter(file.parent for home in homes for file in home.rglob("*.py"))


def one_word_share() -> float:
    """Share of functions and methods whose name is one word; dunders do not count, leading underscores neither."""
    names = [node.name for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    names = [name for name in names if not name.startswith("__")]
    return sum("_" not in name.strip("_") for name in names) / len(names)


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Names, attributes, arguments, keywords and definitions, as often as they stand there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg) or (isinstance(node, ast.keyword) and node.arg):
            yield node.arg or ""
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def banned_identifiers() -> list[str]:
    """Identifiers of the packages that hold a word of `BANNED_WORDS`."""
    found = []
    for file, tree in trees():
        for name in identifiers(tree):
            words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
            if BANNED_WORDS & set(words):
                found.append(f"{file.relative_to(ROOT)}: {name}")
    return found


def unmirrored() -> list[str]:
    """Modules without a test of the same name at the same place under tests/."""
    missing = []
    for package, file in modules():
        inside = file.relative_to(PACKAGES[package])
        if not (ROOT / "tests" / package / inside.parent / f"test_{inside.name.strip('_')}").exists():
            missing.append(f"{package}/{inside}")
    return missing


def import_circles() -> list[list[str]]:
    """Modules that import each other, directly or around a corner (imports within functions count)."""
    import grimp

    graph = grimp.build_graph(*PACKAGES)
    left = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    # What imports nothing that is left, and what nothing left imports, is on no circle.
    while gone := {m for m in left if not left[m] & left.keys() or not any(m in left[n] for n in left if n != m)}:
        left = {m: imported for m, imported in left.items() if m not in gone}
    return [sorted(left)] if left else []


# Objects of other libraries are configured by assigning to them: what they are called where that happens.
FOREIGN_OBJECTS = frozenset(
    {"codec", "codec_context", "config", "context", "environment", "info", "inspector", "library", "module", "norm0"}
    | {"nvmlErrorString", "options", "runtime", "short", "stem", "stream", "tar", "tempfile", "template_environment"}
)


def assigned_from_outside() -> list[str]:
    """Assignments to an attribute of an object other than ``self``: nobody writes into another's object."""
    found = []
    for file, tree in trees():
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else targets
            stores = [n for t in targets for n in ast.walk(t) if isinstance(n, ast.Attribute)]
            for store in stores:
                if not isinstance(store.ctx, ast.Store):
                    continue
                owner = store.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name not in FOREIGN_OBJECTS | {"self", "cls"}:
                    found.append(f"{file.relative_to(ROOT)}:{store.lineno}: {ast.unparse(store)}")
    return found


def many_parameters(limit: int = 6) -> list[str]:
    """Functions with more parameters than ``limit``; commands of click, whose parameters are options, do not count."""
    found = []
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not any("command" in ast.unparse(d) for d in node.decorator_list):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [a.arg for a in arguments if a.arg not in ("self", "cls")]
                if len(names) > limit:
                    found.append(f"{file.relative_to(ROOT)}: {node.name} has {len(names)}")
    return found


def untyped_dicts() -> int:
    """How often ``dict[str, Any]`` stands in the packages."""
    files = (file for home in PACKAGES.values() for file in home.rglob("*.py"))
    return sum(file.read_text(encoding="utf-8").count("dict[str, Any]") for file in files)


def main() -> None:
    """Print the table."""
    total = len(modules())
    mirrors = total - len(unmirrored())
    folder, most = files_by_folder().most_common(1)[0]
    rows = {
        "files in the root of skd_edge / skd_bench": f"{files_in_root('skd_edge')} / {files_in_root('skd_bench')}",
        "files a folder, with __init__": f"{most} ({folder.relative_to(ROOT)})",
        "import circles": len(import_circles()),
        "one-word function names": f"{one_word_share():.0%}",
        "said, told, asked, kept, taught, heard as identifiers": len(banned_identifiers()),
        "attributes assigned from outside": len(assigned_from_outside()),
        "functions with more than 6 parameters": len(many_parameters()),
        "dict[str, Any]": untyped_dicts(),
        "modules with a test of the same name and place": f"{mirrors} of {total} ({mirrors / total:.0%})",
    }
    print("\n".join(f"{name:55} {value}" for name, value in rows.items()))
    if "--unmirrored" in sys.argv:
        print(*unmirrored(), sep="\n")


if __name__ == "__main__":
    main()
