"""Reducing: one prompt where it fits, levels of partial answers where it does not, and nothing paid for in vain."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kagura_tasks.errors import ContextTooLong, NothingToReduce, PromptError, ProviderUnavailable, RequestRefused
from kagura_tasks.plans import ReducePlan, enveloped, error_in, parts_of
from kagura_tasks.schemas import Completion, CompletionRequest, Usage
from kagura_tasks.worker.job import Delivery, Job
from kagura_tasks.worker.reducing import Reducer, halves, packed, room_for_prompt

TEMPLATE = "Sum up:{% for part in parts %} {{ part }}{% endfor %}"
DELIVERY = Delivery("task", "tag", attempt=1)


class Model:
    """Counts words as tokens, and answers with the numbers that it was shown. `takes` is its own word on that."""

    def __init__(self, window: int | None = None, takes: int = 10**9, answer: str = "") -> None:
        self.window = window
        self.takes = takes
        self.answer = answer
        self.jobs: list[Job] = []
        self.running = self.peak = 0

    def context_window(self, model: str) -> int | None:
        return self.window

    async def count_tokens(self, model: str, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def ask(self, job: Job) -> Completion:
        prompt = str(job.request.messages[0].content)
        if len(prompt.split()) > self.takes:
            raise ContextTooLong("too long", job.request.model)
        self.jobs.append(job)
        self.running += 1
        self.peak = max(self.peak, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        usage = Usage(prompt_tokens=10, completion_tokens=1, total_tokens=11, cost_usd=0.5)
        text = self.answer or "+".join(re.findall(r"\d+", prompt))
        return Completion(text=text, model=job.request.model, finish_reason="stop", usage=usage)

    @property
    def prompts(self) -> list[str]:
        return [str(job.request.messages[0].content) for job in self.jobs]


def plan(template: str = TEMPLATE, **fields: object) -> ReducePlan:
    return ReducePlan.model_validate({"template": template, "request": {"model": "openai/m"}, **fields})


def part(number: int, words: int = 9) -> str:
    """A text that has so many words, of so many bytes that bytes alone do not say that it fits."""
    return f"{number} " + "abcdefghij " * (words - 1)


async def reduced(model: Model, parts: Sequence[str], how: ReducePlan | None = None) -> Completion:
    return await Reducer(model, model.ask).run(how or plan(), parts, (), DELIVERY)


async def test_what_fits_is_one_prompt():
    """One call, by the task itself: it may go back to the queue with what it tried."""
    model = Model(window=1000)
    completion = await reduced(model, ["1 a", "2 b"])
    assert (completion.text, completion.attempts, completion.usage.total_tokens) == ("1+2", 1, 11)
    assert model.prompts == ["Sum up: 1 a 2 b"]
    assert (model.jobs[0].task_id, model.jobs[0].may_leave) == ("task", True)


async def test_what_does_not_fit_is_reduced_in_levels():
    """Neighbours go together, in order; each part is read once; the answer's usage is that of all calls."""
    model = Model(window=60)  # 39 words are free
    completion = await reduced(model, [part(number) for number in range(40)])
    assert completion.text == "+".join(map(str, range(40)))
    read = Counter(number for prompt in model.prompts for number in re.findall(r"(\d+) abc", prompt))
    assert read == Counter(map(str, range(40)))
    assert all(len(prompt.split()) <= 39 for prompt in model.prompts)
    assert (completion.attempts, completion.usage.total_tokens) == (len(model.jobs), 11 * len(model.jobs))
    assert completion.usage.cost_usd == pytest.approx(0.5 * len(model.jobs))


class Crowd(Model):
    """Answers nobody before eight have asked."""

    def __init__(self) -> None:
        super().__init__(window=60)
        self.is_full = asyncio.Event()

    async def ask(self, job: Job) -> Completion:
        if self.running == 7:
            self.is_full.set()
        self.running += 1
        self.peak = max(self.peak, self.running)
        await self.is_full.wait()
        self.running -= 1
        return await super().ask(job)


async def test_partial_calls_are_bounded():
    """Eight at a time, and as many as that."""
    model = Crowd()
    await reduced(model, [part(number) for number in range(100)])
    assert model.peak == 8


async def test_partial_calls_have_names():
    """Each its own, the same in a redelivery; and each sits its waits out."""
    first, again = Model(window=60), Model(window=60)
    for model in (first, again):
        await reduced(model, [part(number) for number in range(100)])
    named = {job.task_id: prompt for job, prompt in zip(first.jobs, first.prompts, strict=True)}
    assert named == {job.task_id: prompt for job, prompt in zip(again.jobs, again.prompts, strict=True)}
    assert len(named) == len(first.jobs) > 8
    assert not any(job.may_leave for job in first.jobs)


async def test_the_window_is_what_the_caller_says_then_what_is_known_then_a_small_one():
    """context_tokens wins over LiteLLM's map; a model that nobody knows has 8,192 tokens."""
    parts = [part(number, words=500) for number in range(10)]  # 5,000 words
    calls: list[int] = []
    for window, said in ((None, None), (2000, None), (2000, 9000), (9000, 2000)):
        model = Model(window=window)
        await reduced(model, parts, plan(context_tokens=said))
        calls.append(len(model.jobs))
    assert calls[0] == calls[2] == 1
    assert calls[1] == calls[3] > 1


async def test_a_part_that_alone_does_not_fit_is_said_before_anything_is_paid_for():
    """ContextTooLong, with both numbers and what to do."""
    model = Model(window=60)
    with pytest.raises(ContextTooLong, match=r"about 100 tokens, and 39 are free.*context_tokens"):
        await reduced(model, [part(1), part(2), part(3, words=100), part(4)])
    assert model.jobs == []


async def test_the_providers_word_counts_more_than_ours():
    """Where it refuses a prompt that should fit, the parts are halved; a single one is its error."""
    model = Model(window=1000, takes=25)
    assert (await reduced(model, [part(number) for number in range(8)])).text == "0+1+2+3+4+5+6+7"
    with pytest.raises(ContextTooLong, match="too long"):
        await reduced(model, [part(1, words=30)])


async def test_answers_that_do_not_get_shorter_end_it():
    """Each part may be shortened alone once; what stays too long is not paid for again and again."""
    model = Model(window=60, answer="word " * 25)
    with pytest.raises(ContextTooLong, match="ask for shorter ones"):
        await reduced(model, [part(number, words=25) for number in range(6)])
    assert len(model.jobs) == 12


async def test_a_long_part_waits_until_others_are_short():
    """A part that has no room beside another is not asked about alone where others can go together."""
    model = Model(window=60)
    parts = [part(1, words=35), *[part(number) for number in (2, 3, 4, 5)]]
    assert (await reduced(model, parts)).text == "1+2+3+4+5"
    assert len(model.prompts[0].split()) < 39
    assert "2 abc" in model.prompts[0]


async def test_bytes_bound_a_prompt_as_well():
    """A model with a window of a million tokens still gets no prompt above the limit."""
    model = Model(window=10**6)
    completion = await reduced(model, [part(number) for number in range(40)], plan(max_prompt_bytes=500))
    assert completion.text == "+".join(map(str, range(40)))
    assert max(len(prompt.encode()) for prompt in model.prompts) <= 500


async def test_an_empty_partial_answer_is_no_answer():
    """What a group said must not be lost in silence."""
    with pytest.raises(RequestRefused, match="partial answer"):
        await reduced(Model(window=60, answer=" "), [part(number) for number in range(10)])


async def test_failures_are_told_in_the_last_prompt_alone():
    """`failed` has types and no text; `count` is how many there were in all."""
    model = Model(window=60)
    template = (
        "{{ failed | map(attribute='type') | join(',') }} of {{ count }}:{% for p in parts %} {{ p }}{% endfor %}"
    )
    failed = [{"type": "ContentRefused"}, {"type": "RateLimited"}]
    parts = [part(number) for number in range(8)]
    await Reducer(model, model.ask).run(plan(template), parts, failed, DELIVERY)
    assert model.prompts[-1].startswith("ContentRefused,RateLimited of 10:")
    assert all(prompt.startswith("of 10:") for prompt in model.prompts[:-1])


async def test_nothing_to_reduce_is_an_error_that_says_why():
    """All have failed, or there was nothing at all."""
    model = Model()
    with pytest.raises(NothingToReduce, match="all 2 have failed, the first with ContentRefused"):
        await Reducer(model, model.ask).run(plan(), [], [{"type": "ContentRefused"}, {"type": "X"}], DELIVERY)
    with pytest.raises(NothingToReduce, match="nothing came before"):
        await reduced(model, [])


async def test_an_error_ends_the_other_partial_calls():
    """The first one comes out as it is, when no call runs any more."""
    running: list[str] = []

    async def ask(job: Job) -> Completion:
        if job.task_id.endswith("0.0"):
            await asyncio.sleep(0)
            raise ProviderUnavailable("down", job.request.model)
        running.append(job.task_id)
        try:
            await asyncio.Event().wait()
        finally:
            running.remove(job.task_id)
        raise AssertionError

    with pytest.raises(ProviderUnavailable):
        await Reducer(Model(window=60), ask).run(plan(), [part(number) for number in range(40)], (), DELIVERY)
    assert running == []


async def test_a_template_that_wants_real_parts_gets_no_others():
    """Its overhead cannot be measured with stand-ins; the real prompts are what counts."""
    model = Model(window=60)
    how = plan("{% for part in parts %} {{ part.split('abc')[0] }}{{ part }}{{ part[0:400][0] }}{% endfor %}")
    await reduced(model, [part(number) for number in range(10)], how)
    assert all(len(prompt.split()) <= 39 for prompt in model.prompts)


def test_the_answers_room_is_kept_free():
    """What the request allows for it, or a part of the window; and a tenth for what tokenizers disagree about."""

    def room(window: int, **params: object) -> int:
        request = CompletionRequest.model_validate(
            {"model": "m", "messages": [{"role": "user", "content": "?"}], "params": params}
        )
        return room_for_prompt(window, request)

    assert room(100_000) == 90_000 - 4096
    assert room(1000) == 900 - 250
    assert room(10_000, max_tokens=500) == 8500
    assert room(10_000, max_tokens=500, max_completion_tokens=700) == 8300


@given(st.lists(st.integers(1, 30), min_size=1), st.integers(1, 40))
def test_packing_keeps_order_and_room(weights: list[int], room: int):
    """Every part is in one group, in order; a group with several has room for them, and none could take the next."""
    groups = [weights[one] for one in packed(weights, room)]
    assert [weight for group in groups for weight in group] == weights
    assert all(sum(group) <= room for group in groups if len(group) > 1)
    assert all(sum(one) + two[0] > room for one, two in pairwise(groups))


@given(st.lists(st.text(max_size=20), min_size=2))
def test_halves_are_both_shorter(parts: list[str]):
    """Whatever the texts, cutting goes on to an end."""
    first, second = halves(parts)
    assert [*first, *second] == parts
    assert min(len(first), len(second)) >= 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(30, 80), st.integers(20, 200))
def test_every_part_reaches_the_answer_once(words: list[int], window: int, takes: int):
    """Whatever the sizes: the answer has every part once and in order, or it is said that something is too long."""
    model = Model(window=window, takes=takes)
    parts = [part(number, count) for number, count in enumerate(words)]
    try:
        completion = asyncio.run(reduced(model, parts, plan(TEMPLATE.replace(" }}", " | trim }}"))))
    except ContextTooLong:
        return
    assert completion.text == "+".join(str(number) for number in range(len(parts)))
    assert len(model.jobs) <= 2 * len(parts) + 1


def test_what_came_before_may_be_anything_of_a_canvas():
    """Completions, envelopes, other tasks' results, one or in lists of lists; None is nothing."""
    completion = Completion(text="an answer", model="m", finish_reason="stop").model_dump(mode="json")
    failure = enveloped(ProviderUnavailable("down", "m", 503))
    assert parts_of(completion) == (["an answer"], [])
    assert parts_of([[completion, "text"], failure, None, [[{"rows": 3}], 7]]) == (
        ["an answer", "text", '{"rows": 3}', "7"],
        [{"type": "ProviderUnavailable"}],
    )
    assert parts_of(None) == ([], [])


def test_an_error_in_an_envelope_is_the_same_error():
    """Its fields come back; what only looks like an envelope is none."""
    error = error_in(enveloped(ProviderUnavailable("down", "m", 503, 2.0)))
    assert isinstance(error, ProviderUnavailable)
    assert (error.model, error.status, error.retry_after_s) == ("m", 503, 2.0)
    for other in (
        {"error": "text"},
        {"error": {"type": "X", "args": []}, "text": ""},
        {"error": {}},
        [],
        None,
        "error",
    ):
        assert error_in(other) is None


@pytest.mark.parametrize(
    ("form", "seen"),
    [("text", "a\n\n[1, 2]"), ("texts", "['a', '[1, 2]']"), ("value", "['a', [1, 2]]")],
)
async def test_a_parameter_gets_what_its_form_says(form: str, seen: str):
    """Agents take one thing, and its name may be any."""
    model = Model()
    how = plan("{{ count }} {{ word }}", takes="count", form=form, given={"word": "!"})
    await reduced(model, ["a", "[1, 2]"], how)
    assert model.prompts == [f"{seen} !"]


def test_a_plan_names_what_it_does_not_know():
    """A variable that nobody gives is said where the plan is made."""
    with pytest.raises(PromptError, match=r"uses rows.*known: count, failed, parts"):
        plan("{{ rows }}").check()
