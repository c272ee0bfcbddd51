"""Run kernels in whatever environment this Python belongs to: ``python script.py --device cuda|cpu``.

It needs nothing of bnbenv: the standard library (Python 3.9 and newer), torch and bitsandbytes. One process checks one
device, the first that CUDA_VISIBLE_DEVICES shows. Progress goes to standard output, one JSON object a line; whatever
the libraries print goes to standard error. Exit code 0: all steps passed or were skipped with a reason, else 1.
"""

import importlib
import os
import sys

# Threads that spin while they wait make products of a few microseconds take seconds on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Only the folder of this file, and only while importing: modules of the user's current folder, or the other files
# here, must not come before the environment's own packages.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - no import that is not needed
sys.path[:] = [entry for entry in sys.path if entry and os.path.abspath(entry) != _HERE]  # noqa: PTH100
sys.path.insert(0, _HERE)
main = importlib.import_module("standalone.main").main
sys.path.remove(_HERE)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
