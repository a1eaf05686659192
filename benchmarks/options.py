"""How much a run does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        quick: Show that it runs, in seconds; the figures mean little, and are not written down.
        wanted_rounds: Interleaved rounds of a benchmark with workers, if it is not quick.
    """

    quick: bool = False
    wanted_rounds: int = 3

    @property
    def rounds(self) -> int:
        """Interleaved rounds of a benchmark with workers."""
        return 1 if self.quick else self.wanted_rounds
