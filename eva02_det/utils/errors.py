"""Bad input ends in one sentence: the exception for it, and the wrapper that prints it."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The text is one sentence: what is wrong, where, and the remedy."""


class LoneError(UserError):
    """Bad luck of one process that the others do not know of, so that it must be said by this one."""


def run_tool(main: Callable[[], None]) -> None:
    """Run a command-line tool: a `UserError` is printed without a traceback and ends with status 2."""
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
