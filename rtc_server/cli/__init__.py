"""The command line `rtc-server`: one file per command, each a thin shell over the module that does the work.

Commands import what they need when they run, so that `--help` and `--version` answer at once.
"""

from __future__ import annotations

import sys

from rtc_server.errors import ConfigError, RtcServerError

from .console import print_error


def main() -> None:
    """Entry point. Errors that we raise on purpose become one sentence each and an exit code.

    0: done; 1: it did not work; 2: wrong usage or settings; 130: interrupted from the keyboard.
    """
    from model.registry import ModelsMissingError, UnknownBackendError
    from model.weights import WeightsError

    from .app import app

    exit_code = 0
    try:
        app(prog_name="rtc-server")
    except* (RtcServerError, ModelsMissingError, UnknownBackendError, WeightsError) as group:
        # Errors from the server arrive wrapped by its task groups.
        for error in _leaves(group):
            print_error(str(error))
            exit_code = max(exit_code, 2 if isinstance(error, ConfigError | UnknownBackendError) else 1)
    sys.exit(exit_code)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
