"""Which run to try next, so that the record that kills its process stands alone soon."""

from __future__ import annotations

from batch_provider.domain.layout import Span
from batch_provider.engine.isolation.index import Trace

RUN_RECORDS = 1_000
"""A run of an isolating attempt has no more records: what is not finished when the child dies is done again."""
ALONE = 2
"""So often a record, or a group that is not halved, has to die alone."""


class Search:
    """Narrows the runs of consecutive ids down to one that dies alone; what survives on the way is finished work.

    Args:
        halves_groups: whether a group that dies may be cut; if not, it dies as a whole.
    """

    def __init__(self, *, halves_groups: bool) -> None:
        self.halves_groups = halves_groups
        self._suspects: Span | None = None
        self._try: Span | None = None
        self._target: Span | None = None
        self._alone = 0

    def next(self, rest: Span, wanted: int) -> tuple[Span, int]:
        """Where to cut the next run, and of how many records: exactly the whole, once something has died."""
        if self._try is None or rest.overlap(self._try) != self._try:
            self._forget()
            return rest, min(wanted, RUN_RECORDS)
        return self._try, len(self._try)

    def survived(self, span: Span) -> None:
        """The run is finished: what died before is behind it, or lives in other company."""
        suspects, target = self._suspects, self._target
        self._forget()
        if suspects is None or span.last >= suspects.last:
            return
        left = Span(span.last + 1, suspects.last)
        self._suspects = left
        self._try = target if target is not None and target.first == left.first else left.head((len(left) + 1) // 2)

    def died(self, rest: Span, wanted: int, trace: Trace) -> Span | None:
        """A run cut there has died; returns the ids to blame, if it was alone often enough."""
        tried, call = self._try or trace.span or rest.head(wanted), trace.inside
        if call is not None and call.last > tried.last:  # it was looking ahead for the end of a group
            tried = Span(tried.first, call.last)
        self._suspects, self._target = tried, None
        if call is not None and call != tried:
            self._target, self._alone = call, 0
            self._try = Span(tried.first, call.first - 1) if call.first > tried.first else call
        elif len(tried) > 1 and (call is None or self.halves_groups):
            self._try, self._alone = tried.head(len(tried) // 2), 0
        else:
            self._try, self._alone = tried, self._alone + 1
            if self._alone == ALONE:
                self._alone = 0
                return tried
        return None

    def _forget(self) -> None:
        self._suspects = self._try = self._target = None
        self._alone = 0
