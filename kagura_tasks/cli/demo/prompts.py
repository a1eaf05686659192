"""What the demo asks: things that a model of 135 million parameters does well. It is asked for no facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

#: The local model's parameters: the likeliest word each time, and answers of a sentence.
LOCAL_PARAMS: Final[dict[str, Any]] = {"temperature": 0, "max_tokens": 64}


@dataclass(frozen=True)
class Ask:
    """One prompt.

    Attributes:
        kind: What is asked for.
        about: The text that it is asked of.
        instruction: The words before that text.
    """

    kind: str
    about: str
    instruction: str

    @property
    def prompt(self) -> str:
        """What the model reads."""
        return f"{self.instruction}{self.about}"


def _summary(text: str) -> Ask:
    return Ask("summarise", text, "Summarize in one short sentence: ")


def _correction(text: str) -> Ask:
    return Ask("rewrite", text, "Rewrite this sentence in correct English: ")


def _sentiment(text: str) -> Ask:
    return Ask("classify", text, "Is this review positive or negative? Answer with one word.\n\nReview: ")


FIRST: Final = _summary(
    "The night train from Oslo to Bergen was cancelled on Friday because heavy snow had blocked the line near Finse. "
    "Passengers were taken by bus instead and arrived five hours late."
)

MANY: Final = [
    _summary("A new bridge over the river will open in spring. It saves cyclists a detour of three kilometres."),
    _summary("The company lost money for the third year in a row. It will close two of its five factories."),
    _summary("The shop on the corner now sells bread on Sundays too. Many neighbours had asked for it."),
    _summary("The flight to Rome was delayed by six hours because the crew was ill. Passengers got a free meal."),
    _summary("The road to the airport is closed until Friday because a water pipe has burst. Buses take the old road."),
    _summary("The bank will close its branch in the village in March because most customers use the app."),
    _correction("she dont like apples"),
    _correction("I seen him last week"),
    _correction("it dont work no more"),
    _correction("the dogs is barking"),
    _correction("they was late again"),
    _correction("I goed to the shop"),
    _correction("she buyed a new car"),
    _sentiment("I love this phone, the battery lasts for days!"),
    _sentiment("This is the worst film I have ever seen."),
    _sentiment("This is the best pizza I have ever had."),
    _sentiment("What a waste of money and time."),
    _sentiment("This is the best phone I have ever had."),
    _sentiment("I regret buying this printer."),
    _sentiment("The app crashes every time I open it."),
]
