"""What money says."""

from __future__ import annotations

from kagura_tasks.errors.base import KaguraTasksError


class BudgetExceeded(KaguraTasksError):
    """A budget has no room for the most that a call may cost: it is not made.

    Attributes:
        whose: Whose budget it is: "tenant acme", or "all tenants" together.
        budget_usd: What calls may cost together (USD).
        spent_usd: What they have cost, and what is set aside for calls that run (USD).
    """

    def __init__(self, whose: str, budget_usd: float, spent_usd: float) -> None:
        """Take whose budget it is, how large it is, and what is spent or set aside of it (USD)."""
        super().__init__(whose, budget_usd, spent_usd)
        self.whose = whose
        self.budget_usd = budget_usd
        self.spent_usd = spent_usd

    def __str__(self) -> str:
        """Say both sums, and when there is more."""
        return (
            f"the day's budget of {self.whose} has no room for this call: {self.spent_usd:.6g} of {self.budget_usd:.6g}"
            " USD are spent, or set aside for calls that run. A new day begins at midnight UTC; without max_tokens a"
            " call sets aside the price of the model's longest answer"
        )
