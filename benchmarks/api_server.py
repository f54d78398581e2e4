"""The server that `http_rates` asks: `python -m benchmarks.api_server FD FOLDER`.

The parent passes a listening socket, so no free port has to be found.
"""

from __future__ import annotations

import socket
import sys

import uvicorn

from milepost import CheckpointManager
from milepost.api import create_app


def main() -> None:
    """Serve the store until terminated."""
    descriptor, folder = sys.argv[1:]
    app = create_app(CheckpointManager(folder))
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(descriptor))])


if __name__ == "__main__":
    main()
