"""A receiver of webhooks, which may behave badly: a real HTTP server on a thread."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from tests.support.waiting import PATIENCE_S

SECRET = b"a secret of some length"


class Delivery(NamedTuple):
    """One POST: its webhook-id, its body, and whether it was signed as it should be."""

    id: str
    body: dict[str, Any]
    signed: bool
    answered: int


class Receiver:
    """What came, and how the next ones are answered.

    Attributes:
        answer: from the number of the delivery to its status; 0 closes the connection, -1 hangs until the end.
        url: where it is.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.deliveries: list[Delivery] = []
        self.other: list[str] = []
        self.answer: Callable[[int], int] = lambda _: 204
        self.ended = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                event, stamp = self.headers["webhook-id"], self.headers["webhook-timestamp"]
                signed = hmac.new(SECRET, f"{event}.{stamp}.".encode() + body, hashlib.sha256).digest()
                fits = self.headers["webhook-signature"] == "v1," + base64.b64encode(signed).decode()
                fits &= abs(int(stamp) - time.time()) < 60
                status = receiver.answer(len(receiver.deliveries))
                receiver.deliveries.append(Delivery(event, json.loads(body), fits, status))
                if status == -1:
                    receiver.ended.wait(60)
                if status > 0:
                    self.send_response(status)
                    self.send_header("location", f"{receiver.url}/elsewhere")
                    self.send_header("content-length", "0")
                    self.end_headers()
                else:
                    self.close_connection = True

            def do_GET(self) -> None:
                receiver.other.append(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def taken(self) -> list[str]:
        """The types of what was answered with 2xx, in order."""
        return [one.body["type"] for one in self.deliveries if 200 <= one.answered < 300]

    def wait_for(self, holds: Callable[[], object]) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, [one._replace(body=one.body["type"]) for one in self.deliveries]
            time.sleep(0.02)


@contextmanager
def receiving(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver as long as the block runs; of HTTPS where there is a context."""
    receiver = Receiver(context)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.ended.set()
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()
