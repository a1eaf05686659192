"""What the demo asks: things that a model of 135 million parameters does well. It knows no facts, so it is asked none."""

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
    _summary("The concert in the park was moved to Sunday because a storm is expected on Saturday evening."),
    _summary("The ferry to the island will run every hour from June on. So far, it has only run three times a day."),
    _summary(
        "The city will plant a thousand trees before winter. They should give shade to streets that were too hot."
    ),
    _summary("Farmers expect a poor apple harvest this year. Frost in April killed many of the blossoms."),
    _correction("she dont like apples"),
    _correction("I seen him last week"),
    _correction("it dont work no more"),
    _correction("the dogs is barking"),
    _correction("they was late again"),
    _correction("I goed to the shop"),
    _correction("she buyed a new car"),
    _sentiment("I love this phone, the battery lasts for days!"),
    _sentiment("This is the worst film I have ever seen."),
    _sentiment("The best pizza in town."),
    _sentiment("What a waste of money and time."),
    _sentiment("Great service, friendly people."),
    _sentiment("I hate this chair, it hurts my back."),
    _sentiment("The app crashes every time I open it."),
]
