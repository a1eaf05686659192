"""A program: sends one part of each kind to each provider through LiteLLM, and prints which of them left it.

The addresses are those of a server here, which refuses everything, and looks for the part's bytes in what it gets.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: No part of anything else that is sent.
BYTES = base64.b64encode(b"the bytes of this part, and of no other").decode()

MODELS = {
    "openai": "openai/gpt-4o",
    "azure": "azure/gpt-4o",
    "openrouter": "openrouter/openai/gpt-4o",
    "anthropic": "anthropic/claude-sonnet-4-5",
    "bedrock": "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0",
    "gemini": "gemini/gemini-2.5-flash",
    "mistral": "mistral/pixtral-large-latest",
    "groq": "groq/llama-4",
    "xai": "xai/grok-4",
    "ollama": "ollama/llava",
    "ollama_chat": "ollama_chat/llava",
    "hosted_vllm": "hosted_vllm/qwen",
}

received: list[bytes] = []


class Refuses(BaseHTTPRequestHandler):
    """Keeps what it gets."""

    def do_POST(self) -> None:
        received.append(self.rfile.read(int(self.headers.get("content-length", 0))))
        self.send_response(400)
        self.end_headers()
        self.wfile.write(b'{"error": {"message": "no"}}')

    def log_message(self, format: str, *args: Any) -> None:
        pass


def part_of(kind: str) -> dict[str, Any]:
    """A content part of this kind."""
    if kind == "image":
        # ollama's pictures are looked into.
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    if kind.startswith("audio/"):
        return {"type": "input_audio", "input_audio": {"data": BYTES, "format": kind.partition("/")[2]}}
    media_type = "application/pdf" if kind == "pdf" else "video/mp4"
    return {"type": "file", "file": {"file_data": f"data:{media_type};base64,{BYTES}"}}


def options_of(provider: str, address: str) -> dict[str, Any]:
    common: dict[str, Any] = {"num_retries": 0, "max_retries": 0, "timeout": 10}
    if provider == "bedrock":
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_region_name": "us-east-1"}
        return {**common, **keys, "aws_bedrock_runtime_endpoint": address}
    version = {"api_version": "2024-10-21"} if provider == "azure" else {}
    return {**common, **version, "api_base": address, "api_key": "test-key"}


def is_sent(litellm: Any, provider: str, kind: str, address: str) -> bool:
    received.clear()
    part = part_of(kind)
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}, part]}]
    with suppress(Exception):  # refused by the server, or by LiteLLM before that
        litellm.completion(model=MODELS[provider], messages=messages, **options_of(provider, address))
    data = PICTURE if kind == "image" else BYTES
    return any(data.encode() in body for body in received)


def main() -> None:
    import litellm

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    asked: dict[str, list[str]] = json.load(sys.stdin)
    sent = {one: [kind for kind in kinds if is_sent(litellm, one, kind, address)] for one, kinds in asked.items()}
    # LiteLLM prints, too.
    print("\n" + json.dumps(sent), flush=True)
    os._exit(0)


if __name__ == "__main__":
    from tests.support.files import picture

    PICTURE = base64.b64encode(picture()).decode()
    main()
