"""Options that several commands share: how their text is parsed, and in which order they are listed."""

from __future__ import annotations

import io
from typing import get_args

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from skd_edge.cli.options import (
    FAMILIES,
    clip_options,
    combine_options,
    exit_with,
    make_progress_counter,
    parse_json_object,
    parse_list,
)
from skd_edge.recipe.networks import ScalableFamily


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), max_size=5))
def test_a_list_is_read_back(items):
    assert parse_list(", ".join(items)) == tuple(items)


def test_a_list_may_be_the_lines_of_a_file(tmp_path):
    (tmp_path / "names").write_text("walk, slowly\n\n run \n", encoding="utf-8")
    assert parse_list(str(tmp_path / "names")) == ("walk, slowly", "run")
    assert parse_list(str(tmp_path / "absent")) == (str(tmp_path / "absent"),)
    assert parse_list(str(tmp_path)) == (str(tmp_path),)  # a folder is not a list of names
    assert parse_list(" ,, ") == ()


def test_a_json_object():
    assert parse_json_object('{"classes": 5}') == {"classes": 5}


@pytest.mark.parametrize("text", ["[1]", "5", "null", "", "{", "{'a': 1}"])
def test_anything_else_is_not_a_json_object(text):
    with pytest.raises(click.BadParameter, match="is not a JSON object, such as"):
        parse_json_object(text)


def test_combined_options_are_listed_in_their_order():
    @click.command()
    @combine_options(click.option("--first"), click.option("--second"))
    def show(first: str, second: str) -> None:
        click.echo(f"{first} {second}")

    assert [option.name for option in show.params] == ["first", "second"]
    assert CliRunner().invoke(show, ["--second", "b", "--first", "a"]).output == "a b\n"


def test_options_of_a_clip_that_were_not_given_are_none():
    @click.command()
    @clip_options
    def show(**options: object) -> None:
        click.echo(repr({name: value for name, value in options.items() if value is not None}))

    assert CliRunner().invoke(show, ["--mean", "0.1", "0.2", "0.3"]).output == "{'mean': (0.1, 0.2, 0.3)}\n"


class Terminal(io.StringIO):
    """Text that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert make_progress_counter("decoded") is None
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    show = make_progress_counter("decoded")
    for done in range(1001):
        show(done, 1000)
    lines = terminal.getvalue().split("\r")
    assert lines[-1] == "decoded 1000 of 1000\n"
    assert terminal.getvalue().count("\n") == 1
    assert len(lines) < 1000  # most of these updates come too quickly to be shown


@pytest.mark.parametrize("code", [0, 1, 75])
def test_a_command_ends_with_its_exit_code(code):
    @click.command()
    def end() -> None:
        exit_with(code)

    assert CliRunner().invoke(end).exit_code == code


def test_the_families_of_a_checkpoint_are_those_whose_size_is_set_by_a_width():
    assert get_args(ScalableFamily) == FAMILIES
