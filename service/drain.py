"""Whether this process is draining: it is about to end, and sends whoever asks again elsewhere.

Then the service says that it is not ready and closes each connection with the next answer, but
answers everything.
"""

from __future__ import annotations


class Drain:
    """``begun`` from ``begin()`` on; there is no way back."""

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        """Start draining."""
        self.begun = True
