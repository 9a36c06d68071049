"""The command `segue` (also ``python -m segue.cli``) from its first moment on.

Loading it takes a tenth of a second, and Ctrl-C may come then: one line all the same.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from segue.cli import INTERRUPTED


def run() -> NoReturn:
    """The command, to the end of the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        # Nothing is to be cleaned up yet, and an exception in an import could be swallowed.
        signal.signal(signal.SIGINT, lambda *_: _interrupted())
    from segue.cli.main import main  # noqa: PLC0415

    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main(prog_name="segue")
    except KeyboardInterrupt:
        _interrupted()
    sys.exit(0)


def _interrupted() -> NoReturn:
    os.write(2, b"segue: interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    run()
