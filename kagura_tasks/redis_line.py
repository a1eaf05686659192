"""One connection for all commands of an event loop: those of one turn of the loop leave together.

redis-py lends each command a connection of its own: a lock, three timers and a look at the pool, which take several
times as long as the command. Redis answers in the order in which it is asked, so one connection can carry everybody's
commands. redis-py makes the connection (address, TLS, password, handshake), and reads what comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from itertools import takewhile
from typing import Any, Final, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

try:
    _hiredis: Any = import_module("hiredis")
except ImportError:  # a worker has it, an application may not
    _hiredis = None

#: The types of nearly all arguments of commands, and how they are written.
_WRITERS: Final[dict[type, Callable[[Any], bytes]]] = {bytes: bytes, str: str.encode, int: b"%d".__mod__}


class LineConnection(Protocol):
    """A connection to Redis that carries a line."""

    async def connect(self) -> None:
        """Open it. Raises redis-py's errors."""
        ...

    def write(self, data: bytes) -> None:
        """Send this, soon."""
        ...

    async def next_answer(self) -> object:
        """What the server says next; an error that it answers is returned, too. Raises where the connection ends."""
        ...

    async def disconnect(self, nowait: bool = False) -> None:
        """Close it."""
        ...


class _Asked:
    """A command, and who waits for its answer.

    Attributes:
        command: As it goes over the wire.
        answer: What the server says to it.
        sent_at: When it was written (the loop's time).
        is_second: It was lost with a connection before.
    """

    __slots__ = ("answer", "command", "is_second", "sent_at")

    def __init__(self, command: bytes, answer: asyncio.Future[Any]) -> None:
        self.command = command
        self.answer = answer
        self.sent_at = 0.0
        self.is_second = False

    def settle(self, answer: object) -> None:
        if self.answer.done():  # who waited was cancelled
            return
        if isinstance(answer, Exception):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class Line:
    """Commands on their way over one connection, which is opened when it is needed and opened anew when it was lost."""

    def __init__(self, connection: Callable[[], LineConnection], timeout_s: float) -> None:
        """Take what makes connections, and for how long (s) an answer is waited for. Opens nothing yet."""
        self._new_connection = connection
        self._timeout_s = timeout_s
        self._connection: LineConnection | None = None
        self._serving: asyncio.Task[None] | None = None
        self._waiting: list[_Asked] = []
        self._sent: deque[_Asked] = deque()
        self._is_due = False
        self._watch: asyncio.TimerHandle | None = None

    def ask(self, command: bytes) -> asyncio.Future[Any]:
        """The answer to a command (see `packed`).

        A command that was lost with its connection is sent once more, as redis-py does. The future raises redis-py's
        errors: the server's own, ConnectionError, and TimeoutError where the server hangs.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(command, loop.create_future())
        self._waiting.append(asked)
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._send)
        return asked.answer

    async def close(self) -> None:
        """Close the connection; whoever waits for an answer is cancelled."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        self._cancel_all()
        if self._connection is not None:
            await self._drop(self._connection)

    def _send(self) -> None:
        """Write what waits, and let somebody read the answers; without a connection, that one opens it first."""
        self._is_due = False
        if self._connection is not None:
            self._write(self._connection)
        if (self._sent or self._waiting) and (self._serving is None or self._serving.done()):
            self._serving = asyncio.get_running_loop().create_task(self._serve(), name="kagura-redis")
            self._serving.add_done_callback(self._ended)

    def _write(self, connection: LineConnection) -> None:
        # Who was cancelled meanwhile wants nothing.
        asked, self._waiting = [one for one in self._waiting if not one.answer.done()], []
        if not asked:
            return
        now = asyncio.get_running_loop().time()
        for one in asked:
            one.sent_at = now
        self._sent.extend(asked)
        connection.write(b"".join([one.command for one in asked]))
        if self._watch is None:
            self._look_at(now + self._timeout_s)

    async def _serve(self) -> None:
        """Hand out answers while anybody waits for one. No longer: the task would be left over when its loop ends."""
        while self._sent or self._waiting:
            connection = self._connection or await self._opened()
            if connection is not None:
                self._write(connection)
                await self._hand_out(connection)

    async def _opened(self) -> LineConnection | None:
        """A new connection; None where there is none, which all have been told."""
        connection = self._new_connection()
        try:
            await connection.connect()
        except Exception as refused:  # noqa: BLE001 (whatever it is; redis-py has tried twice)
            self._fail(self._outstanding(), refused)
            await self._drop(connection)
            return None
        except asyncio.CancelledError:
            await self._drop(connection)
            raise
        self._connection = connection
        return connection

    async def _hand_out(self, connection: LineConnection) -> None:
        """Give everybody the answer, until nobody waits for another or the connection is lost."""
        try:
            while self._sent:
                answer = await connection.next_answer()
                self._sent.popleft().settle(answer)
        except Exception as error:  # noqa: BLE001 (whatever it is: nobody shall wait in vain)
            await self._drop(connection)
            self._ask_again(error if isinstance(error, RedisError) else _lost(error))
        except asyncio.CancelledError:
            await self._drop(connection)
            raise

    async def _drop(self, connection: LineConnection) -> None:
        if self._connection is connection:
            self._connection = None
        await connection.disconnect(nowait=True)

    def _ended(self, serving: asyncio.Task[None]) -> None:
        """Whoever cancels the one who serves, as one does who ends all tasks, leaves nobody waiting."""
        if serving.cancelled() and serving is self._serving:
            self._cancel_all()

    def _cancel_all(self) -> None:
        for asked in self._outstanding():
            asked.answer.cancel()

    def _ask_again(self, error: Exception) -> None:
        """What was sent, and has no answer, is sent once more, before all else."""
        self._fail([one for one in self._sent if one.is_second], error)
        lost = [one for one in self._sent if not one.is_second]
        for one in lost:
            one.is_second = True
        self._sent.clear()
        self._waiting[:0] = lost

    def _fail(self, asked: Iterable[_Asked], error: Exception) -> None:
        for one in asked:
            one.settle(error)

    def _outstanding(self) -> list[_Asked]:
        """All that have no answer, taken off the line."""
        asked = [*self._sent, *self._waiting]
        self._sent.clear()
        self._waiting = []
        return asked

    def _look(self) -> None:
        """Tell those who have waited too long, and give the connection up if it has been silent for twice as long.

        One timer for all. Not at once, since a server that is busy for a moment answers the others in time.
        """
        self._watch = None
        now = asyncio.get_running_loop().time()
        for asked in takewhile(lambda one: now - one.sent_at >= self._timeout_s, self._sent):
            asked.settle(_too_late())
        if self._sent and now - self._sent[0].sent_at >= 2 * self._timeout_s:
            self._give_up()
        elif self._sent:
            due_at = next((one.sent_at for one in self._sent if not one.answer.done()), now) + self._timeout_s
            self._look_at(min(due_at, self._sent[0].sent_at + 2 * self._timeout_s))

    def _look_at(self, when: float) -> None:
        self._watch = asyncio.get_running_loop().call_at(when, self._look)

    def _give_up(self) -> None:
        self._fail(self._outstanding(), _too_late())
        if self._serving is not None:
            self._serving.cancel()
        self._serving = self._connection = None


def _lost(error: Exception) -> RedisConnectionError:
    return RedisConnectionError(f"the connection was lost ({type(error).__name__})")


def _too_late() -> RedisTimeoutError:
    return RedisTimeoutError("Timeout reading from socket")


def packed(command: Sequence[Any]) -> bytes | None:
    """The command as it goes over the wire; None where an argument is of an unusual type, which redis-py knows better.

    redis-py asks each argument for a dozen types: a call's commands have forty.
    """
    if not _WRITERS.keys() >= set(map(type, command)):
        return None
    name, *rest = command
    words = (*str(name).split(), *rest)  # "SCRIPT LOAD" is two
    if _hiredis is not None:
        return _hiredis.pack_command(words)
    texts = [_WRITERS[type(word)](word) for word in words]
    return b"".join([b"*%d\r\n" % len(texts), *[b"$%d\r\n%b\r\n" % (len(text), text) for text in texts]])
