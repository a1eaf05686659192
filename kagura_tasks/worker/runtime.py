"""What a worker process shares: one event loop, one provider, one set of connections."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from typing import Any, Final, TypeVar

from kagura_tasks import parking, task_store
from kagura_tasks.connections import REDIS_AWAY, async_client
from kagura_tasks.delivery_keys import COUNTS, taken_key
from kagura_tasks.files.asking import AskedFile
from kagura_tasks.loops import LoopThread
from kagura_tasks.maps.names import MapName
from kagura_tasks.plans import ReducePlan, parts_of
from kagura_tasks.providers.provider import Provider
from kagura_tasks.routing.order import RouteOrder
from kagura_tasks.schemas import Completion
from kagura_tasks.settings import ENV_PREFIX, Settings
from kagura_tasks.task_store import TaskRecord
from kagura_tasks.worker.cancel_watch import CancelWatch
from kagura_tasks.worker.completion import CompletionRunner
from kagura_tasks.worker.deliveries import script
from kagura_tasks.worker.exchanges import Exchanges
from kagura_tasks.worker.file_answers import answer_about
from kagura_tasks.worker.file_items import FileItems
from kagura_tasks.worker.job import BeforeCall, Delivery, HandedBack, Job, TakenAway
from kagura_tasks.worker.limits import limits_of
from kagura_tasks.worker.redis_streams import RedisStreams
from kagura_tasks.worker.reducing import Reducer
from kagura_tasks.worker.retries import RetryPolicy
from kagura_tasks.worker.routing import QueryRouter
from kagura_tasks.worker.single_flight import RedisSingleFlight

log = logging.getLogger(__name__)

T = TypeVar("T")

_WAS_TAKEN: Final = script("was_taken.lua", buries=True)


class Runtime:
    """Runs jobs on the process's one event loop, from however many threads or children Celery gives them to."""

    def __init__(self, settings: Settings, open_provider: Callable[[], Provider] | None = None) -> None:
        """Take the settings, and what makes the provider (default: `open_providers`). Starts nothing yet."""
        self.settings = settings
        self._open_provider = open_provider or partial(open_providers, settings)
        self._loop = LoopThread("kagura-worker")
        self._cancels = CancelWatch(settings)
        self._runner: CompletionRunner | None = None
        self._running: set[Future[Any]] = set()
        self._hands_back = False

    def run(self, job: Job) -> Completion:
        """The job's answer; the calling thread waits.

        Raises:
            HandedBack: The worker stops before the answer is there.
            TakenAway: The task was given to another worker meanwhile.
            Exception: What CompletionRunner.run raises.
        """
        return self.wait_for(self.answer(job))

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work returns; the calling thread waits, and the work runs where all answers are made.

        Raises:
            HandedBack: The worker stops before the work is done.
            Exception: What the work raises.
        """
        if self._hands_back:
            work.close()
            raise HandedBack
        wait = parking.awaiter()
        if wait is not None:
            return wait(work)
        running = self._loop.submit(work)
        self._running.add(running)
        try:
            return running.result()
        except CancelledError:
            raise (HandedBack if self._hands_back else asyncio.CancelledError) from None
        finally:
            running.cancel()
            self._running.discard(running)

    def hand_back(self) -> int:
        """End all calls that run, so that other workers make them; how many there were. No further one is started."""
        self._hands_back = True
        return sum(running.cancel() for running in list(self._running))

    def preload(self) -> None:
        """Import the provider now: in the parent, before it forks, so that children share the memory and the wait."""
        _ = self.runner

    async def answer(self, job: Job) -> Completion:
        """The job's answer, on the event loop of the answers. See `run` for what it raises."""
        async with self._unless_taken(job.delivery_tag):
            return await self.runner.run(job)

    async def item(self, name: MapName, task_id: str, answer: Callable[[], Awaitable[Completion]]) -> Completion:
        """The answer to an item of this map. Raises TaskCancelled where the map is cancelled, and as `answer` does."""
        async with self._cancels.heed_item(task_id, name):
            return await answer()

    async def reduction(self, plan: ReducePlan, before: object, delivery: Delivery) -> Completion:
        """The answer to what came before, by this plan. Raises what Reducer.run raises, and as `run` does."""
        reducer = Reducer(self.runner.provider, self.runner.ask)
        # There may be thousands: not on the loop.
        parts, failed = await asyncio.to_thread(parts_of, before)
        async with self._unless_taken(delivery.delivery_tag):
            return await self.runner.once(delivery.task_id, lambda: reducer.run(plan, parts, failed, delivery))

    async def file_answer(self, asked: AskedFile, delivery: Delivery, before_call: BeforeCall | None) -> Completion:
        """The answer about a file that was loaded. Raises what answer_about raises, and as `run` does."""
        if len(asked.asks) == 1:
            return await self.answer(replace(delivery.job(asked.asks[0]), before_call=before_call))
        runner = self.runner
        about = partial(answer_about, asked, delivery, runner.ask, runner.provider, before_call)
        async with self._unless_taken(delivery.delivery_tag):
            return await runner.once(delivery.task_id, about)

    @cached_property
    def files(self) -> FileItems:
        """Who loads files, made when it is first needed."""
        return FileItems(self.settings)

    async def routed(self, order: RouteOrder, delivery: Delivery) -> Completion:
        """The answer of the agent that the query is for. Raises what QueryRouter.run raises, and as `run` does."""
        router = QueryRouter(self.settings, self.runner)
        async with self._unless_taken(delivery.delivery_tag):
            return await self.runner.once(delivery.task_id, lambda: router.run(order, delivery))

    async def embedded(self, job: Job) -> Completion:
        """The vectors of the job's messages. Raises what CompletionRunner.embed raises, and as `run` does."""
        async with self._unless_taken(job.delivery_tag):
            return await self.runner.once(job.task_id, lambda: self.runner.embed(job))

    @asynccontextmanager
    async def _unless_taken(self, delivery_tag: str) -> AsyncGenerator[None]:
        started = time.time()
        try:
            yield
        finally:
            # A worker that was frozen, or cut off, long enough to lose a task has seen so much time pass.
            if time.time() - started > self.settings.visibility_timeout_s / 2 and await self._was_taken(delivery_tag):
                raise TakenAway

    async def _was_taken(self, delivery_tag: str) -> bool:
        """The task was given to another worker; what a Redis that is away knows of it, the result backend will ask."""
        broker = async_client(self.settings.broker, self.settings.redis_timeout_s)
        try:
            return bool(await _WAS_TAKEN.arun(broker, [taken_key(delivery_tag), COUNTS], []))
        except REDIS_AWAY:
            return False

    async def _finished_record(self, task_id: str) -> TaskRecord | None:
        try:
            record = await task_store.find(self.settings, task_id)
        except REDIS_AWAY as error:
            log.warning("a task's record could not be read (%s): starting it", type(error).__name__)
            return None
        return record if record.is_finished else None

    @property
    def runner(self) -> CompletionRunner:
        """Who answers, made when it is first needed."""
        if self._runner is None:
            self._runner = CompletionRunner(
                provider=self._open_provider(),
                flights=RedisSingleFlight(self.settings),
                streams=RedisStreams(self.settings),
                heed=self._cancels.heed,
                records=self._finished_record,
                exchanges=Exchanges.of_worker(self.settings),
                policy=RetryPolicy.from_settings(self.settings),
                limits=limits_of(self.settings),
                fallbacks=self.settings.fallbacks,
                call_timeout_s=self.settings.call_timeout_s,
            )
        return self._runner


def open_providers(settings: Settings) -> Provider:
    """Who makes the calls. LiteLLM is imported now: it takes seconds, so only those who make calls should wait.

    Raises ConfigurationError where a limit is for no model.
    """
    from kagura_tasks.providers.known_models import refuse_unknown
    from kagura_tasks.providers.lanes import Lanes
    from kagura_tasks.providers.litellm import LiteLLMProvider, prepare

    prepare()
    used = {settings.default_model, *settings.fallbacks, *chain.from_iterable(settings.fallbacks.values())}
    refuse_unknown(f"{ENV_PREFIX}LIMITS", settings.limits, used)
    litellm = LiteLLMProvider()
    return litellm if settings.provider_lane == "litellm" else Lanes(litellm)
