"""What a child process of a task must not do by itself: speak to Airflow's supervisor. Its parent speaks for it."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any


class SupervisorOutside:
    """Passes what a child asks of Airflow (connections, variables, XComs) to its parent (an Outside).

    Two processes that speak on one socket would read each other's answers.
    """

    def enter(self, ask: Callable[[bytes], bytes]) -> None:
        """In the child: every question goes to the parent, and the socket is gone."""
        task_runner = _task_runner()
        socket = getattr(task_runner.SUPERVISOR_COMMS, "socket", None)
        if socket is not None:  # under dag.test() the supervisor is in this very process
            nowhere = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nowhere, socket.fileno())
            os.close(nowhere)
        task_runner.SUPERVISOR_COMMS = _Relay(ask)

    def answer(self, question: bytes) -> bytes:
        """In the parent: what the supervisor says, or the exception that asking it raises."""
        said: tuple[Any, Exception | None]
        try:
            said = _task_runner().SUPERVISOR_COMMS.send(pickle.loads(question)), None  # noqa: S301  # its own child's
        except Exception as error:  # noqa: BLE001  # it belongs to whoever has asked
            said = None, error
        return pickle.dumps(said)


def _task_runner() -> Any:
    """The module of Airflow that runs this task and holds its way to the supervisor."""
    from batch_provider.airflow_compat import RuntimeTaskInstance

    return sys.modules[RuntimeTaskInstance.__module__]


class _Relay:
    """Stands in the child for Airflow's own way to the supervisor."""

    def __init__(self, ask: Callable[[bytes], bytes]) -> None:
        self._ask = ask

    def send(self, msg: Any) -> Any:
        """Ask, and wait for the answer."""
        answer, error = pickle.loads(self._ask(pickle.dumps(msg)))  # noqa: S301  # its own parent's
        if error is not None:
            raise error
        return answer

    async def asend(self, msg: Any) -> Any:
        """The same from a coroutine."""
        return await asyncio.to_thread(self.send, msg)
