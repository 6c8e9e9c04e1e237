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
PACKAGES = {"skd_edge": ROOT / "skd_edge", "skd_export": ROOT / "export/skd_export", "skd_bench": ROOT / "bench/skd_bench"}
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
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
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


def main() -> None:
    """Print the table."""
    mirrors = len(modules()) - len(unmirrored())
    folder, most = files_by_folder().most_common(1)[0]
    rows = {
        "files in the root of skd_edge / skd_bench": f"{files_in_root('skd_edge')} / {files_in_root('skd_bench')}",
        "files a folder, with __init__": f"{most} ({folder.relative_to(ROOT)})",
        "import circles": len(import_circles()),
        "one-word function names": f"{one_word_share():.0%}",
        "said, told, asked, kept, taught, heard as identifiers": len(banned_identifiers()),
        "modules with a test of the same name and place": f"{mirrors} of {len(modules())} ({mirrors / len(modules()):.0%})",
    }
    print("\n".join(f"{name:55} {value}" for name, value in rows.items()))
    if "--unmirrored" in sys.argv:
        print(*unmirrored(), sep="\n")


if __name__ == "__main__":
    main()
