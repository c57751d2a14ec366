"""The report of runs that still train: served to this machine's browser, which asks for what is new."""

import json
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pilotfish.runs import RunError
from pilotfish.runs.store import Run
from pilotfish.view import report


def server(paths: Sequence[Path], port: int = 0) -> ThreadingHTTPServer:
    """A server of the report on this machine alone; port 0 takes a free one. `serve_forever` starts it.

    OSError if the port is not free.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages: dict[str, tuple[str, Callable[[], str]]] = {
                "/": ("text/html", lambda: report.written(_opened(paths), live=True)),
                "/content.json": ("application/json", lambda: json.dumps(report.content(_opened(paths)))),
            }
            kind, write = pages.get(self.path, ("", None))
            if write is None:
                self.send_error(404)
                return
            try:
                body = write().encode()
            except RunError as error:  # a folder that went away, or is damaged
                self.send_error(500, str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of every question."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _opened(paths: Sequence[Path]) -> list[Run]:
    return [Run.open(path) for path in paths]
