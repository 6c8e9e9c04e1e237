"""docs/security.md names the tests that hold each promise: they exist and hold tests."""

import re


def test_the_named_tests_exist(root):
    text = (root / "docs/security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+\.py)`", text)
    assert len(named) == len(set(named)) > 15
    for name in named:
        assert re.search(r"^def test_", (root / name).read_text(encoding="utf-8"), flags=re.M), name


def test_the_limits_are_those_of_the_code(root):
    from bench.suites.robustness import fuzz_readers
    from skd_bench.runtimes.query_limit import QUERY_LIMIT_S
    from skd_edge.data.sources.group_pattern import LIMIT_S

    text = " ".join((root / "docs/security.md").read_text(encoding="utf-8").split())
    assert f"with {LIMIT_S:g} s for a name" in text
    assert f"ends after {QUERY_LIMIT_S:g} s" in text
    assert f"limits of {fuzz_readers.LIMIT_S:g} s and {fuzz_readers.LIMIT_BYTES >> 30} GiB" in text
