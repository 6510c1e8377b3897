"""Whether this process is draining: it is about to end, and sends clients elsewhere.

While it drains, the service reports not ready and closes each connection with its next answer, but
still answers everything.
"""

from __future__ import annotations


class Drain:
    """``begun`` from ``begin()`` on; there is no way back."""

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        """Start draining."""
        self.begun = True
