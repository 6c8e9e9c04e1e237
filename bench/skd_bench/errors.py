"""The one exception that a user is shown: what was given, why it cannot be, and what to do."""


class UserError(Exception):
    """A mistake or a missing thing that the user can act on; the command line prints it without a traceback.

    Attributes:
        exit_code: 1 when the work failed, 2 when the recipe or the command line is wrong.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(UserError):
    """The recipe or the command line is wrong (exit code 2)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)
