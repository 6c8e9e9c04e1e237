"""Errors for users have a message and the exit code of the command line."""

import pytest

from skd_bench.errors import UsageError, UserError


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(UserError("the disk is full", exit_code=75), 75), (UserError("no video"), 1), (UsageError("wrong option"), 2)],
)
def test_an_error_has_its_message_and_exit_code(error, exit_code):
    assert error.exit_code == exit_code
    assert str(error) == error.args[0]


def test_a_usage_error_is_caught_as_a_user_error():
    with pytest.raises(UserError, match="unknown option"):
        raise UsageError("unknown option")
