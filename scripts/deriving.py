"""What the scripts that write tables have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bnbenv.errors import BnbenvError, Exit


def ended(work: Callable[[], int]) -> int:
    """The exit code of ``work``; an error is told in its sentence and next step."""
    try:
        return work()
    except BnbenvError as error:
        print(f"{error.message} {error.next_step}", file=sys.stderr)
        return error.exit
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
