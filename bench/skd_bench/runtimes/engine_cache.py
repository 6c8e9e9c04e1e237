"""The folder of compiled engines in a user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.files import find_user_cache


def open_engine_cache() -> Path:
    """The folder of compiled engines in this user's cache, which is private to the user.

    Its place is below that of `find_user_cache`.

    Raises:
        UserError: The folder cannot be made, or belongs to someone else.
    """
    folder = find_user_cache() / "engines"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_own = not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} for engines: {error.strerror}; set SKD_EDGE_CACHE") from error
    if not is_own:  # an engine is code for the GPU: it is loaded only from where nobody else can put it
        raise UserError(f"the folder {folder} for engines belongs to another user; set SKD_EDGE_CACHE to another one")
    return folder
