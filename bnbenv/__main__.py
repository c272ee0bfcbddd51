"""``python -m bnbenv``, and the program ``bnbenv``."""

import os
import sys


def main() -> int:
    """Run the command line. Ctrl-C while it is still being loaded ends it, too, as it ends any command."""
    try:
        _own_packages_first()
        from bnbenv.cli import main as run
    except KeyboardInterrupt:
        return 130
    code = run()
    if code < 0:
        from bnbenv.cli.interrupt import end_by_signal

        return end_by_signal(-code)
    return code


def _own_packages_first() -> None:
    """What a cluster's module puts in PYTHONPATH comes after what bnbenv was installed with, and not before it."""
    given = os.environ.get("PYTHONPATH")
    if given:
        entries = {os.path.realpath(one) for one in given.split(os.pathsep) if one}
        sys.path.sort(key=lambda path: os.path.realpath(path) in entries)  # stable


if __name__ == "__main__":
    raise SystemExit(main())
