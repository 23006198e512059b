"""The base of every error: it pickles, and says whether trying again can help."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Self


class BatchError(Exception):
    """Base of every error of the provider."""

    retryable: ClassVar[bool] = False
    _facts: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the facts, so that the error can be built again on the other side of a process border."""
        self = super().__new__(cls, *args)
        self._facts = (args, kwargs)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the constructor's own arguments."""
        args, kwargs = self._facts
        return (partial(type(self), **kwargs), args)
