"""The outcomes of fused steps, packed: two bits each, the first step's lowest (column ``_outcomes``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from batch_provider.domain.outcome import Outcome

_BITS = 2


def pack(outcomes: Sequence[np.ndarray]) -> np.ndarray:
    """One number for each record, of an array of outcomes for each step."""
    packed = np.zeros(len(outcomes[0]), dtype=np.uint64)
    for number, outcome in enumerate(outcomes):
        packed |= outcome.astype(np.uint64) << np.uint64(_BITS * number)
    return packed


def unpack(packed: np.ndarray, number: int) -> np.ndarray:
    """The outcomes of the fused step of that number, counted from 0."""
    outcome: np.ndarray = ((packed >> np.uint64(_BITS * number)) & np.uint64(3)).astype(np.uint8)
    return outcome


def over_all(outcomes: Sequence[np.ndarray]) -> np.ndarray:
    """What all the steps together did: FAILED if one did, else SUCCEEDED if one did."""
    found: np.ndarray = outcomes[0].copy()
    for outcome in outcomes[1:]:
        found[(outcome == Outcome.SUCCEEDED) & (found != Outcome.FAILED)] = Outcome.SUCCEEDED
        found[outcome == Outcome.FAILED] = Outcome.FAILED
    return found


def failed_in(steps: Sequence[str], rows: pa.Table) -> list[str]:
    """The step in which each of these failed rows failed: a checkpoint's only one, or one of those fused in it."""
    if len(steps) == 1:
        return [steps[0]] * rows.num_rows
    packed = rows["_outcomes"].to_numpy()
    found = np.zeros(len(packed), dtype=np.int64)
    for number in range(len(steps)):
        found[unpack(packed, number) == Outcome.FAILED] = number
    return [steps[number] for number in found.tolist()]
