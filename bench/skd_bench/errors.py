"""The exceptions whose message is shown to the user: what was given, why it is wrong, and what to do."""

EXIT_PAUSED = 75  # exit code of a command that stopped and can be resumed (sysexits.h: EX_TEMPFAIL)


class UserError(Exception):
    """A problem that the user can solve; the command line prints its message without a traceback.

    Attributes:
        exit_code: Of the process: 1 when the work failed, 2 when the recipe or the command line is wrong, 75 when the
            work stopped and can be resumed (for example after a full disk).
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(UserError):
    """The recipe or the command line is wrong (exit code 2)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)
