"""A streaming aggregator whose attempts died: asked and called in a child, once more if that dies, never halved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from batch_provider.domain.errors import ProcessDiedError
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.isolation.child import Outside
from batch_provider.engine.isolation.index import CallIndex
from batch_provider.engine.isolation.process import Child, ChildDiedError
from batch_provider.engine.isolation.search import ALONE

log = logging.getLogger(__name__)


class Piece(Protocol):
    """A block of the stream."""

    taken: np.ndarray
    errors: dict[int, RecordError]


@dataclass(frozen=True)
class Called:
    """What the one call came to.

    Attributes:
        error: of all records.
        seconds: it took.
        stacks: exception type → the stack of the first of its kind.
    """

    error: RecordError | None
    seconds: float
    stacks: dict[str, str]


@dataclass(frozen=True)
class StreamWork:
    """What there is to do in the child.

    Attributes:
        step: name of the aggregator.
        pieces: of the stream.
        accept: finds out which records of a piece are taken.
        admit: the same by the policy alone: an expression that kills cannot be asked.
        call: the one call over all pieces.
    """

    step: str
    pieces: Sequence[Any]
    accept: Callable[[Any], None]
    admit: Callable[[Any], None]
    call: Callable[[], Called]


def call_in_child(work: StreamWork, look: Callable[[], None], outside: Outside | None) -> Called:
    """Have it asked and called in a child; if that dies twice, the step has failed for every record.

    Args:
        work: what to do.
        look: raises if somebody asks for an end: then nothing is to blame for a death.
        outside: what the child must not speak to.
    """
    log.warning("Step %s: its attempts died without a word; this one calls it in a child process", work.step)
    was_accepted, how = False, ""
    for _ in range(ALONE):
        child = Child(lambda pipe: serve_stream(pipe, work), CallIndex(), outside)
        try:
            for piece, (taken, errors) in zip(work.pieces, child.answer(), strict=True):
                piece.taken, piece.errors = taken, errors
            was_accepted = True
            called: Called = child.answer()
            return called
        except ChildDiedError as death:
            how = death.how
            log.warning("Step %s: the child process ended by %s", work.step, how)
        finally:
            child.end()
        look()
    if not was_accepted:
        for piece in work.pieces:
            work.admit(piece)
    error = ProcessDiedError(work.step, how, "the call for all its records")
    log.error("%s", error)
    return Called(RecordError.of(error), 0.0, {})


def serve_stream(pipe: Connection, work: StreamWork) -> None:
    """In the child: say which records are taken, then what came of the call."""
    for piece in work.pieces:
        work.accept(piece)
    pipe.send([(piece.taken, piece.errors) for piece in work.pieces])
    pipe.send(work.call())
