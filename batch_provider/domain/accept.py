"""Which records a step takes."""

from __future__ import annotations

from enum import StrEnum

from batch_provider.domain.errors import InvalidOptionError


class AcceptPolicy(StrEnum):
    """Which records a step takes, by whether they failed before (Mule's ``acceptPolicy``).

    The policy is asked first, then the accept expression; both must hold.
    """

    NO_FAILURES = "NO_FAILURES"
    """Only records that have not failed (the default)."""
    ONLY_FAILURES = "ONLY_FAILURES"
    """Only records that have failed in an earlier step or in the input phase."""
    ALL = "ALL"
    """Every record."""

    @classmethod
    def of(cls, value: object) -> AcceptPolicy:
        """Return the policy of that name.

        Raises:
            InvalidOptionError: there is none of that name.
        """
        try:
            return cls(value)  # type: ignore[arg-type]  # anything may be given; what is not a name raises
        except ValueError:
            raise InvalidOptionError("accept_policy", value, " or ".join(cls)) from None

    def admits(self, failed_before: bool) -> bool:
        """Whether a record that has failed before, or has not, passes this policy."""
        if self is AcceptPolicy.ALL:
            return True
        return failed_before is (self is AcceptPolicy.ONLY_FAILURES)
