"""The least that FastAPI can do: `python -m benchmarks.bare_server FD FILE ANSWERS`.

Its `def` routes have the paths of Milepost's, and return the bytes of the folder
ANSWERS; a save is parsed, serialized, appended to FILE, and synced.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel


class Save(BaseModel):
    """What a save is asked with."""

    job_id: str
    step_name: str
    state: dict[str, Any]


def main() -> None:
    """Serve until terminated."""
    descriptor, path, answers = sys.argv[1:]
    listed, one, saved = (
        Path(answers, name).read_bytes() for name in ("list", "one", "saved")
    )
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    app = FastAPI()

    @app.get("/api/checkpoints")
    def listing(job_id: str) -> Response:
        del job_id
        return Response(listed, media_type="application/json")

    @app.get("/api/checkpoints/{checkpoint_id}")
    def reading(checkpoint_id: str) -> Response:
        del checkpoint_id
        return Response(one, media_type="application/json")

    @app.post("/api/checkpoints", status_code=201)
    def saving(body: Save) -> Response:
        os.write(file, orjson.dumps(body.state))
        os.fdatasync(file)
        return Response(saved, status_code=201, media_type="application/json")

    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(descriptor))])


if __name__ == "__main__":
    main()
