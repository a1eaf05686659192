"""A chat in the browser: answers show while they are written, survive a reload, and can be stopped. See README.md."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from kagura_tasks import KaguraTasksError, LLMClient
from kagura_tasks.streaming.sse import EventStreamApp, refusal

client = LLMClient()  # KAGURA_TASKS_REDIS_URL says where


class Turn(BaseModel):
    role: Literal["user", "assistant"]
    content: str = Field(min_length=1, max_length=100_000)


class Conversation(BaseModel):
    messages: list[Turn] = Field(min_length=1, max_length=200)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await client.aclose()


app = FastAPI(title="Chat", lifespan=lifespan)
# There is no log-in: only pages of this machine may ask, also where a name elsewhere is made to lead here.
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])


@app.post("/answers", status_code=202)
async def ask(conversation: Conversation) -> dict[str, str]:
    """Enqueue, and return at once. The id is all that a page needs to read along, also after a reload."""
    messages = [turn.model_dump() for turn in conversation.messages]
    return {"id": (await client.asubmit(messages, stream=True)).id}


@app.get("/answers/{task_id}")
async def whole(task_id: str) -> dict[str, str]:
    """The whole text, for a page that came when the stream was not kept any more."""
    return {"text": (await client.result(task_id).aget(timeout_s=2)).text}


@app.delete("/answers/{task_id}", status_code=202)
async def stop(task_id: str) -> None:
    """The stream tells every reader that it was cancelled."""
    await client.acancel(task_id)


@app.exception_handler(KaguraTasksError)
async def in_words(_: Request, error: KaguraTasksError) -> JSONResponse:
    status, document = refusal(error)
    return JSONResponse(document, status)


app.mount("/streams", EventStreamApp(client.resume))
app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))
