"""
A web service that sends tasks and awaits results, without ever blocking its event loop.

Run it with ``uvicorn web:api``, then::

    curl localhost:8000/greet/Ada          waits for the result
    curl -X POST localhost:8000/jobs/Ada   returns an id at once
    curl localhost:8000/jobs/ID            says what has become of it
    curl localhost:8000/party/Ada/Grace    streams the results as they come
"""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from tasks import app, greet

from celery import group
from celery.exceptions import TimeoutError

api = FastAPI()


@api.get("/greet/{name}")
async def wait_for_greeting(name: str) -> str:
    result = await greet.adelay(name)
    return await result


@api.post("/jobs/{name}")
async def start(name: str) -> dict[str, str]:
    result = await greet.aapply_async((name,), expires=60)
    return {"id": result.id}


@api.get("/jobs/{task_id}")
async def look(task_id: str, timeout: float = 0.5) -> dict[str, Any]:
    try:
        return {"result": await app.AsyncResult(task_id).aget(timeout=timeout)}
    except TimeoutError:
        raise HTTPException(202, "not yet") from None


@api.get("/party/{one}/{other}")
async def party(one: str, other: str) -> StreamingResponse:
    results = await group(greet.s(one), greet.s(other)).adelay()

    async def lines() -> AsyncIterator[str]:
        async for result in results:
            yield f"{await result}\n"

    return StreamingResponse(lines(), media_type="text/plain")
