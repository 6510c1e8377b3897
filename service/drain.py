"""Whether the server is draining: known to every process of it, from its supervisor.

A byte of memory that the supervisor shares with the workers it forks. While it is set, the service
says that it is not ready and closes each connection with the next answer, but answers everything.
"""

from __future__ import annotations

import mmap


class Drain:
    """Made before the fork; ``begin()`` in any process is ``begun`` in all."""

    def __init__(self) -> None:
        self._flag = mmap.mmap(-1, 1)

    def begin(self) -> None:
        """Start draining; there is no way back."""
        self._flag[0] = 1

    @property
    def begun(self) -> bool:
        """Whether the server is draining."""
        return self._flag[0] == 1
