"""The child: it makes the runner, works off requests, and leaves without a word to anybody else."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from traceback import format_exc
from typing import Any, NoReturn, Protocol

import numpy as np

from batch_provider.domain.layout import Span
from batch_provider.engine.columns.block import BlockResult
from batch_provider.engine.isolation.faults import let_faults_kill
from batch_provider.engine.isolation.index import CallIndex
from batch_provider.engine.isolation.memory import bound_memory
from batch_provider.engine.isolation.messages import (
    CutRequest,
    Finished,
    OutOfMemory,
    Question,
    Raised,
    RunRequest,
    Types,
    is_out_of_memory,
    to_ipc,
    without_columns,
)
from batch_provider.engine.isolation.watch import parts_of, spare, watch
from batch_provider.engine.ports.store import GenerationReader
from batch_provider.engine.steps.fused import FusedRunner, Runner

READY = "ready"
_PR_SET_PDEATHSIG = 1
_FIRST_TO_GO = 1000


class Outside(Protocol):
    """What only the parent may speak to: Airflow's supervisor."""

    def enter(self, ask: Callable[[bytes], bytes]) -> None:
        """In the child: let go of it, and ask the parent instead."""
        ...

    def answer(self, question: bytes) -> bytes:
        """In the parent: what it says to a child's question."""
        ...


def live(
    parent: int, pipe: Connection, outside: Outside | None, serve: Callable[[], None]
) -> NoReturn:  # pragma: no cover  # a forked process that leaves by _exit tells nobody what it covered
    """The whole life of a child; it never returns to what its parent was doing.

    Args:
        parent: whose child it is.
        pipe: to it.
        outside: what it must not speak to.
        serve: its work.
    """
    code = 1
    try:
        _settle(parent)
        if outside is not None:
            outside.enter(asking(pipe))
        serve()
        code = 0
    except BaseException as error:  # noqa: BLE001  # the parent raises it
        with suppress(Exception):
            pipe.send(outcome_of(error))
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _settle(parent: int) -> None:  # pragma: no cover  # as above
    """Die with the parent, be the first to go when memory is short, and be told to end by the parent alone."""
    let_faults_kill()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError, AttributeError):  # other systems have none of this
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        Path("/proc/self/oom_score_adj").write_text(str(_FIRST_TO_GO))
    if os.getppid() != parent:  # it died before it could be tied to this process
        os._exit(1)
    with suppress(OSError, ValueError):
        bound_memory()


def asking(pipe: Connection) -> Callable[[bytes], bytes]:
    """Asks the parent, one question at a time: the author's functions may run in threads."""
    lock = threading.Lock()

    def ask(question: bytes) -> bytes:
        with lock:
            pipe.send(Question(question))
            answer: bytes = pipe.recv()
            return answer

    return ask


def serve_runner(
    pipe: Connection, index: CallIndex, upstream: GenerationReader, make: Callable[[], Runner | FusedRunner]
) -> None:
    """Make a runner and work off requests until the parent hangs up.

    What a request raises ends the child: the task ends with it, or it is run again in a new child.
    """
    runner = make()
    spared = watch(runner, index)
    pipe.send(READY)
    with suppress(EOFError):
        while True:
            request = pipe.recv()
            spare(spared, request.condemned)
            span, result = _done(request, runner, upstream, index)
            pipe.send(Finished(span, without_columns(result), _types_of(runner), dict(runner.stacks), _work_of(runner)))
            pipe.send_bytes(memoryview(to_ipc(result.columns)))
            index.reset()
    runner.close()


def _done(
    request: CutRequest | RunRequest, runner: Runner | FusedRunner, upstream: GenerationReader, index: CallIndex
) -> tuple[Span, BlockResult]:
    if isinstance(request, RunRequest):
        span, candidates = request.span, request.candidates
    else:
        span = runner.cut(upstream, request.rest, request.wanted)
        candidates = np.arange(len(span))
    index.at_block(span)
    return span, runner.run(runner.block(upstream, span), candidates)


def _types_of(runner: Runner | FusedRunner) -> dict[str, Types]:
    return {each.step.name: dict(each.types) for each in parts_of(runner)}


def _work_of(runner: Runner | FusedRunner) -> dict[str, Any]:
    return dict(runner.work) if isinstance(runner, FusedRunner) else {}


def outcome_of(error: BaseException) -> Raised | OutOfMemory:
    """What the parent is told of an exception."""
    if is_out_of_memory(error):
        return OutOfMemory(f"{type(error).__name__}: {error}")
    note = "In the child process of an isolating attempt:\n" + format_exc()
    try:
        found = pickle.loads(pickle.dumps(error))  # noqa: S301  # its own
        assert isinstance(found, BaseException)
    except Exception:  # noqa: BLE001  # what cannot cross the border is told as text
        found = RuntimeError(f"{type(error).__name__}: {error}")
    return Raised(found, note)
