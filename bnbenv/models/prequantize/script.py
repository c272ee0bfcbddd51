"""Quantize a checkpoint in whatever environment this Python belongs to; see ``standalone/protocol.py``.

It needs nothing of bnbenv: the standard library (Python 3.9 and newer), torch, transformers, accelerate, bitsandbytes.
"""

import importlib
import os
import sys

# Settled before the libraries read them: never the network, and threads that sleep while they wait.
os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"})
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Only the folder of this file, and only while importing: modules of the user's current folder, or the other files
# here, must not come before the environment's own packages.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - no import that is not needed
sys.path[:] = [entry for entry in sys.path if entry and os.path.abspath(entry) != _HERE]  # noqa: PTH100
sys.path.insert(0, _HERE)
main = importlib.import_module("standalone.main").main
sys.path.remove(_HERE)

if __name__ == "__main__":
    sys.exit(main())
