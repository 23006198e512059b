"""How many records the next block takes."""

from __future__ import annotations

from batch_provider.domain.spec import AUTO

FIRST_BLOCK = 32
TARGET_SECONDS = 1.0
LARGEST_BYTES = 16 * 2**20
LARGEST_BLOCK = 500_000


class BlockSizer:
    """An explicit size is kept exactly; ``auto`` aims at a second of work and at most 16 MiB a block.

    So fast steps do not pay a file per hundred records, and slow ones lose about a second to a crash.
    """

    def __init__(self, block_size: int | str) -> None:
        self._fixed = None if block_size == AUTO else int(block_size)
        self.size = FIRST_BLOCK if self._fixed is None else self._fixed

    def learn(self, records: int, seconds: float, size_bytes: int) -> None:
        """Take note of what the last block cost."""
        if self._fixed is not None or records == 0:
            return
        by_time = TARGET_SECONDS / max(seconds / records, 1e-9)
        by_bytes = LARGEST_BYTES / max(size_bytes / records, 1.0)
        wanted = min(by_time, by_bytes, LARGEST_BLOCK, self.size * 8)
        self.size = max(1, int(wanted))
