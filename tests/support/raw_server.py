"""A server that sends exactly the bytes that a test wants sent, in the parts that it wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from types import TracebackType


class RawServer:
    """Answers every request with the same parts, then closes the connection, or holds it until the client does.

    Attributes:
        base_url: Under which LiteLLM reaches it as `openai/...`.
        left: Set as soon as a client has closed a connection that was held.
    """

    def __init__(self, parts: Sequence[bytes], *, held: bool = False) -> None:
        self._parts, self._held = parts, held
        self.left = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._server.getsockname()[1]}/v1"

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone would not wake the thread that waits for the next connection.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            try:
                _read_request(connection)
                for part in self._parts:
                    connection.sendall(part)
                if self._held:
                    while connection.recv(2**16):
                        pass
            except ConnectionError:
                pass
            if self._held:
                self.left.set()


def _read_request(connection: socket.socket) -> None:
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += connection.recv(2**16)
    head, _, body = seen.partition(b"\r\n\r\n")
    fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    left = next(int(value) for name, _, value in fields if name == b"content-length") - len(body)
    while left > 0:
        left -= len(connection.recv(2**16))
