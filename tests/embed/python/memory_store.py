"""A catalog store in memory, as an example of the contract.

A persistent store must return only after a change is durable.
"""

from threading import Lock
from uuid import uuid4

from authority import Entry


class MemoryStore:
    def __init__(self, document: str | None = None) -> None:
        self._lock = Lock()
        self._entry = None if document is None else _entry(document)

    def load(self) -> Entry | None:
        return self._entry

    def swap(self, expected: str | None, document: str) -> str | None:
        # No other thread may write between the comparison and the write.
        with self._lock:
            if expected != (self._entry and self._entry.version):
                return None
            self._entry = _entry(document)
            return self._entry.version


def _entry(document: str) -> Entry:
    # Random instead of a counter, so that no version repeats, even after a restart.
    return Entry(str(uuid4()), document)
