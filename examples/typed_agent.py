"""An agent whose answer is a pydantic model. An answer that does not fit is asked for again, twice at most.

Start workers with `make up`, then run `python typed_agent.py` in a terminal with KAGURA_TASKS_REDIS_URL.
"""

import asyncio
from typing import Literal

from pydantic import BaseModel, Field

from kagura_tasks import agent
from kagura_tasks.errors import OutputInvalid


class Review(BaseModel):
    """What a review says."""

    mood: Literal["positive", "negative", "mixed"]
    stars: int = Field(ge=1, le=5)
    complaints: list[str] = []


@agent(temperature=0)
async def read_review(text: str) -> Review:
    """Read this review of a product: its mood, the stars it deserves, and what it complains about.

    {{ text }}
    """
    raise NotImplementedError  # the body never runs: the docstring is the prompt


async def main() -> None:
    try:
        review = await read_review("The battery lasts for days. The charger broke after a week.")
    except OutputInvalid as error:
        print(error)
    else:
        print(f"{review.mood}, {review.stars} stars, complaints: {', '.join(review.complaints) or 'none'}")


if __name__ == "__main__":
    asyncio.run(main())
