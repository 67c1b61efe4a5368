"""Relay: a way to a Redis that can be cut, or forgets its connections without a word, as what stands between may."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

UNIX, HTTP = "unix://", "http://"


class Relay:
    """Passes bytes between a port and a Redis on a unix socket, or a service on a port.

    Attributes:
        url: of the Redis or the service, by this way.
        lose: once these bytes come by, the connection is closed: before they are passed on, or, if `after`, when they
            are answered, instead of the answer. Then it is b"" again.
        hang: `lose` swallows the answer and leaves the connection open.
    """

    def __init__(self, url: str) -> None:
        self.lose, self.after, self.hang = b"", True, False
        self._target = url
        self._server = socket.create_server(("127.0.0.1", 0))
        port = self._server.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}" if url.startswith(HTTP) else f"redis://127.0.0.1:{port}/0"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._forgotten: set[socket.socket] = set()
        self._doomed: dict[socket.socket, bool] = {}  # whether what is lost leaves its connection open
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()

    def forget(self) -> None:
        """Of the connections that there are, nothing comes through any more, and nobody is told."""
        self._forgotten.update(end for pair in self._pairs for end in pair)

    def cut(self) -> None:
        """Close the connections that there are."""
        for near, far in self._pairs:
            _close(near, far)
        self._pairs.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = _connect(self._target)
                self._pairs.append((near, far))
                for way in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=way, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65_536):
                if source in self._forgotten:
                    continue
                if source in self._doomed:
                    if self._doomed.pop(source):
                        self._forgotten.update((source, sink))
                        continue
                    break
                if self.lose and self.lose in chunk:
                    self.lose = b""
                    if not self.after:
                        break
                    self._doomed[sink] = self.hang
                sink.sendall(chunk)
        _close(source, sink)


def _connect(url: str) -> socket.socket:
    if url.startswith(HTTP):
        host, port = url.removeprefix(HTTP).split(":")
        return socket.create_connection((host, int(port)))
    far = socket.socket(socket.AF_UNIX)
    far.connect(url.removeprefix(UNIX))
    return far


def _close(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
