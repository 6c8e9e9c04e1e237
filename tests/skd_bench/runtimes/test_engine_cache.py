"""The folder of engines in the user's cache."""

import pytest

from skd_bench.errors import UserError
from skd_bench.runtimes.engine_cache import open_engine_cache


def test_its_place_and_that_nobody_else_may_write_there(tmp_path, monkeypatch):
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "given"))
    folder = open_engine_cache()
    assert folder == tmp_path / "given" / "engines"
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("SKD_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert open_engine_cache() == tmp_path / "xdg" / "skd-edge" / "engines"


def test_a_folder_of_another_user_or_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path))
    open_engine_cache()
    monkeypatch.setattr("os.getuid", lambda: -1)
    with pytest.raises(UserError, match="belongs to another user; set SKD_EDGE_CACHE"):
        open_engine_cache()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot make the folder"):
        open_engine_cache()
