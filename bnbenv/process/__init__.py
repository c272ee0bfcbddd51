"""The one door to subprocesses: a command is a value, never a shell string.

``runner``: run to the end or to a time limit, and keep what was printed. ``passing``: a user's own command, its output
passed on while it runs, its signals and terminal kept as they are (imported by those who need it alone).
``background``: a helper that prints lines while something else is done.
"""

from bnbenv.process.runner import GRACE, TICK, Command, Finished, Runner, SystemRunner, Watch, postponed

__all__ = ["GRACE", "TICK", "Command", "Finished", "Runner", "SystemRunner", "Watch", "postponed"]
