"""Connections that synchronous callers borrow for one command at a time.

redis-py's own loans, with two locks, a look at the socket and its bookkeeping, take longer than most commands. redis-py
makes the connections (address, TLS, password, handshake), and reads what comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from kagura_tasks.forks import watch_forks


class LoanedConnection(Protocol):
    """A connection to Redis, which opens itself when it is needed and closes itself when it fails."""

    def send_packed_command(self, command: Sequence[bytes], check_health: bool = True) -> None:
        """Send this. Raises redis-py's errors."""
        ...

    def read_response(self) -> Any:
        """What the server says to it. Raises redis-py's errors, and those that it answers."""
        ...

    def disconnect(self) -> None:
        """Close it."""
        ...


class Loans:
    """So many connections at most, for any number of threads. The last one that came back is lent first."""

    def __init__(self, connection: Callable[[], LoanedConnection], most: int, timeout_s: float) -> None:
        """Take what makes connections, how many there may be, and for how long (s) one is waited for."""
        self._new_connection = connection
        self._most = most
        self._timeout_s = timeout_s
        self.on_fork()
        watch_forks(self)

    def ask(self, command: bytes) -> Any:
        """The answer to a command (see `packed`).

        A command that was lost with its connection is sent once more, as redis-py does. Raises redis-py's errors: the
        server's own, ConnectionError (also where no connection comes back in time), and TimeoutError.
        """
        idle, places = self._idle, self._places
        try:
            places.get(timeout=self._timeout_s)
        except Empty:
            raise RedisConnectionError("all connections are in use") from None
        try:
            return self._answer_over(self._lent(idle), command, idle)
        finally:
            places.put(None)

    def close(self) -> None:
        """Close all that are not lent."""
        while self._idle:
            self._idle.pop().disconnect()

    def on_fork(self) -> None:
        """See Inherited: a child must not talk on its parent's sockets."""
        self._idle = deque[LoanedConnection]()
        self._places = SimpleQueue[None]()
        for _ in range(self._most):
            self._places.put(None)

    def _answer_over(self, connection: LoanedConnection, command: bytes, idle: deque[LoanedConnection]) -> Any:
        is_clean = False
        try:
            answer = _answer(connection, command)
            is_clean = True
            return answer
        except ResponseError:
            is_clean = True
            raise
        finally:
            # A signal can interrupt anything: an answer that nobody has read must not be the next one's.
            if not is_clean:
                connection.disconnect()
            idle.append(connection)

    def _lent(self, idle: deque[LoanedConnection]) -> LoanedConnection:
        try:
            return idle.pop()
        except IndexError:
            return self._new_connection()


def _answer(connection: LoanedConnection, command: bytes) -> Any:
    try:
        return _answer_at_once(connection, command)
    except RedisConnectionError:  # dropped while it was idle, as a rule
        return _answer_at_once(connection, command)


def _answer_at_once(connection: LoanedConnection, command: bytes) -> Any:
    connection.send_packed_command((command,), check_health=False)
    return connection.read_response()
