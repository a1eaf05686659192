"""What befalls the tools of an agent."""

from __future__ import annotations

from kagura_tasks.errors.base import KaguraTasksError


class ToolError(KaguraTasksError):
    """Raise it in a tool to tell the model what is wrong: its text goes to the model, and nobody else sees it."""


class ToolNotAllowed(KaguraTasksError):
    """The worker does not run this function. Nothing was asked of the model."""

    def __init__(self, place: str, problem: str) -> None:
        """Take the function's place ("module:name"), and what keeps the worker from running it."""
        super().__init__(place, problem)
        self.place = place
        self.problem = problem

    def __str__(self) -> str:
        """Name both, and the setting that says which functions a worker runs."""
        return (
            f"the worker does not run the tool {self.place}: {self.problem}. "
            "KAGURA_TASKS_TOOL_MODULES=team.tools on the workers lets them run what is marked in team.tools"
        )


class ToolRoundsExceeded(KaguraTasksError):
    """The model asked for tools in each round that it had. What they did is done."""

    def __init__(self, rounds: int) -> None:
        """Take how many rounds there were."""
        super().__init__(rounds)
        self.rounds = rounds

    def __str__(self) -> str:
        """Say how to give it more."""
        return (
            f"the model asked for tools in {self.rounds:,} rounds and did not answer: "
            "raise max_rounds of the agent, or tell it in the prompt when it has what it needs"
        )
