"""A fault of the processor ends the process: a handler in Python cannot, it returns to the very same instruction."""

from __future__ import annotations

import signal
from contextlib import suppress

_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


def let_faults_kill() -> None:
    """Remove handlers in Python from the signals of processor faults.

    Airflow installs one for SIGSEGV when it imports a DAG file, in every task, and leaves it there. A process with it
    does not die of a SIGSEGV but raises it again for ever (measured: at 100 % of a core, and its supervisor sends
    heartbeats), so no attempt ends.
    """
    for fault in _FAULTS:
        if callable(signal.getsignal(fault)):
            with suppress(ValueError):  # not in the main thread
                signal.signal(fault, signal.SIG_DFL)
