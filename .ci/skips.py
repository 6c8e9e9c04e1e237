"""Print every test that did not run, with its reason; fail on a reason that is not on the list.

python .ci/skips.py REPORT.xml ALLOWED.txt   (a JUnit report; one part of a reason a line, # for comments)
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def main(report: str, allowed: str) -> int:
    """The exit code: 1 where a test was skipped for a reason that nobody wrote down, or no test ran."""
    lines = (line.strip() for line in Path(allowed).read_text(encoding="utf-8").splitlines())
    known = [line for line in lines if line and not line.startswith("#")]
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = [(case, skip) for case in cases for skip in case.findall("skipped")]
    bad = 0
    for case, skip in skipped:
        reason = skip.get("message") or skip.text or "no reason given"
        fine = any(part in reason for part in known)
        bad += not fine
        print(f"{'skipped' if fine else 'NOT ALLOWED'}: {case.get('classname')}::{case.get('name')}: {reason}")
    print(f"{len(cases)} tests, {len(skipped)} skipped, {bad} of them not in {allowed}")
    return 1 if bad or not cases else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
