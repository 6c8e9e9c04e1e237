"""Finding the TensorRT libraries, and their error messages."""

import pytest

from skd_bench.errors import UserError
from skd_bench.runtimes.tensorrt.library import (
    FLAVOURS,
    Flavour,
    find_flavour,
    find_installed_modules,
    first_error,
    import_library,
    read_installed_version,
    strip_source_location,
)


def test_a_message_is_stripped_of_its_source_location():
    message = (
        "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (x: no. In checkType at /_src/a/b.cpp:456)"
    )
    assert strip_source_location(message) == "x: no"


class Log:
    def __init__(self, *errors):
        self.errors = errors


def test_the_first_error_is_reported_in_one_line():
    assert first_error(Log("Error Code 4: first\n  cause", "second"), "nothing") == "first cause"
    assert first_error(Log(), "nothing") == "nothing"
    assert len(strip_source_location("x" * 1000)) == 400


def test_a_library_that_is_not_installed_is_reported_with_the_pip_command():
    absent = Flavour("absent", "Absent", (("no_such_module",), ("os", "no_such_module")), ("no-such-package",), "pip")
    assert find_installed_modules(absent) is None
    assert read_installed_version(absent) is None
    assert find_installed_modules(Flavour("x", "X", (("no_such_module",), ("os", "sys")), (), "")) == ("os", "sys")


@pytest.mark.parametrize("name", FLAVOURS)
def test_an_imported_library_has_the_version_of_its_package(name):
    assert find_flavour(name).name == name
    if find_installed_modules(FLAVOURS[name]) is None:
        assert read_installed_version(FLAVOURS[name]) is None
        with pytest.raises(UserError, match=f"{FLAVOURS[name].title} is not installed; pip install"):
            import_library(name)
    else:
        library = import_library(name)
        assert library is import_library(name)
        assert library.version == read_installed_version(FLAVOURS[name])
        assert library.title == f"{FLAVOURS[name].title} {library.version}"


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match=r"'tensorrt-lean' is not .*; choose from tensorrt, tensorrt-rtx"):
        find_flavour("tensorrt-lean")
