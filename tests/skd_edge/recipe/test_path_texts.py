"""Values of environment variables are replaced in every text, and nothing else is."""

from __future__ import annotations

import pytest

from skd_edge.recipe.path_texts import PathTexts

TEXTS = PathTexts(
    {"/mnt/secret/clips": "${DATA}/clips", "/home/alice/w.pt": "/home/${WHO}/w.pt"},
    {"DATA": "/mnt/secret/", "WHO": "alice", "ROOT": "/"},
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/mnt/secret/clips", "${DATA}/clips"),
        ("cannot read /mnt/secret/clips/a b.mp4: empty", "cannot read ${DATA}/clips/a b.mp4: empty"),
        ("/mnt/secret; '/mnt/secret/other', (/mnt/secret)", "${DATA}; '${DATA}/other', (${DATA})"),
        ("/mnt/secrets and /mnt/secret2/clips", "/mnt/secrets and /mnt/secret2/clips"),
        ("/home/alice/w.pt of alice", "/home/${WHO}/w.pt of alice"),
        (
            "see /mnt/secret. Or </mnt/secret>, `/mnt/secret`! a=/mnt/secret|b",
            "see ${DATA}. Or <${DATA}>, `${DATA}`! a=${DATA}|b",
        ),
        ("no folder /home/alice/other", "no folder /home/${WHO}/other"),
        ("/mnt/secret-2 and /home/alice_b", "/mnt/secret-2 and /home/alice_b"),
        (r"C:\1 \g<0> /mnt/secret/clips", r"C:\1 \g<0> ${DATA}/clips"),
    ],
)
def test_values_are_hidden_in_texts(text, shown):
    assert TEXTS.hide_values(text) == shown
    nested = {text: [text, {"deep": (text, 1.5, None, True)}]}
    assert TEXTS.hide_values(nested) == {shown: [shown, {"deep": [shown, 1.5, None, True]}]}


def test_without_variables_nothing_changes():
    nested = {"a": ("/mnt/secret", 1)}
    assert PathTexts().hide_values(nested) is nested
