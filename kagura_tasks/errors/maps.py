"""What befell many answers as a whole, or the one they were to become."""

from __future__ import annotations

from kagura_tasks.errors.base import KaguraTasksError
from kagura_tasks.errors.budgets import BudgetExceeded


class MapError(KaguraTasksError):
    """Something about a map as a whole. What befell an item is that item's own error."""


class MapExpired(MapError):
    """There is no such map: its time is over, Redis lost it, or there never was one."""

    def __init__(self, map_id: str) -> None:
        """Take the map's id."""
        super().__init__(map_id)
        self.map_id = map_id

    def __str__(self) -> str:
        """Say which setting keeps maps for longer."""
        return (
            f"there is no map {self.map_id}: is its id, and its tenant, right? KAGURA_TASKS_MAP_TTL_S says how long "
            "one is kept. What was answered may still be in the cache: send it again"
        )


class MapFailed(MapError):
    """More items failed than `on_error` allows: no further one was started. What was answered is kept."""

    def __init__(self, map_id: str, failed: int, total: int) -> None:
        """Take the map's id, how many of its items failed, and how many it has."""
        super().__init__(map_id, failed, total)
        self.map_id = map_id
        self.failed = failed
        self.total = total

    def __str__(self) -> str:
        """Say how far it came, and how to go on."""
        return (
            f"{self.failed} of the {self.total} items of map {self.map_id} failed: more than `on_error` allows. "
            "What was answered is kept; `resume_map` goes on"
        )


class MapBudgetExceeded(BudgetExceeded, MapError):
    """A map's budget has no room for the most that a further call may cost: none is made. What was answered is kept."""

    def __init__(self, map_id: str, budget_usd: float, spent_usd: float) -> None:
        """Take the map's id, what its calls may cost together, and what they have cost so far (USD)."""
        super().__init__(f"map {map_id}", budget_usd, spent_usd)
        self.args = (map_id, budget_usd, spent_usd)
        self.map_id = map_id

    def __str__(self) -> str:
        """Say both sums, and how to go on."""
        return (
            f"map {self.map_id} has spent {self.spent_usd:.6g} of {self.budget_usd:.6g} USD, and a further call may "
            "cost more than what is left. What was answered is kept; `resume_map` goes on with a larger `budget_usd`"
        )


class NothingToReduce(KaguraTasksError):
    """Nothing is there to be reduced: all of it has failed, or there was none."""

    def __init__(self, failed: int, first: str = "") -> None:
        """Take how many have failed, and the class's name of the first one's error."""
        super().__init__(failed, first)
        self.failed = failed
        self.first = first

    def __str__(self) -> str:
        """Say what to look at."""
        why = f"all {self.failed} have failed, the first with {self.first}" if self.failed else "nothing came before"
        return f"there is nothing to reduce: {why}"


class OutputUnwritable(KaguraTasksError):
    """A file of answers cannot be written. What is in it stays, and the map is kept. The message says why."""
