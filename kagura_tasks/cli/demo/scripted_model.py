"""No model at all, as a program: canned answers in OpenAI's form, each marked DEMO. Prints its address.

For machines without the local model; it ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, cast

#: What the answers call their model.
NAME: Final = "scripted"

#: What every answer begins with.
MARK: Final = "DEMO"

_WORDS: Final = 12


def answer(prompt: str) -> str:
    """The canned answer: the end of the prompt, marked. Equal prompts have equal answers."""
    words = prompt.split()
    return f"{MARK}, no model: {' '.join(words[-_WORDS:])}"


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's chat completion for this request. A token is a word here."""
    prompt = str(body["messages"][-1]["content"])
    text = answer(prompt)
    read, written = len(prompt.split()), len(text.split())
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return {"id": "demo", "object": "chat.completion", "created": 0, "model": NAME, "choices": [choice], "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a chat completion."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        payload = json.dumps(completion(cast("dict[str, Any]", json.loads(body)))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    #: All prompts of the demo may come at once.
    request_queue_size = 128
    daemon_threads = True


def main() -> None:
    """Serve until standard input ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
