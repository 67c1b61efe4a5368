"""Place: files under a folder or an fsspec URL, of which each is written once and whole.

Nothing is ever written over: a file is there with its whole content, or not at all. `create` tells which of several
writers was first, which is what the repository's compare-and-set is made of.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gatewatch.models.errors import RepositoryAway, RepositoryError

LISTED_AT_MOST: Final = 1_000_000

BUCKETS: Final = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss"})
"""Kinds of URL whose first part is a bucket or container. It is there before any file is; a listing of one that is not
looks like that of an empty one, and the first file would make it."""


class Place:
    """A folder, or what an fsspec URL names; names are relative to it, with slashes between.

    On a disk a file is made beside its name and linked there. Elsewhere the store has to refuse a second write of the
    same name, as S3, Azure and Google Cloud Storage do (fsspec's mode "create").
    """

    def __init__(self, url: str) -> None:
        """Raises RepositoryError where there is no such kind of URL, or a package for it is missing."""
        self.url = url
        self._opened: Any = None
        self._root = ""
        self._folder: Path | None = None
        self._bucket = ""
        with contextlib.suppress(RepositoryAway):  # which who asks hears
            self._open()

    def _open(self) -> Any:
        """The file system. Raises RepositoryAway where that needs a connection, as over FTP, and there is none."""
        from fsspec.core import url_to_fs  # an import of 0.1 s, which only those with a repository need
        from fsspec.implementations.local import LocalFileSystem

        if self._opened is None:
            with self._reached("opened"):
                self._opened, root = url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
            self._root = root.rstrip("/")
            self._folder = Path(root) if isinstance(self._opened, LocalFileSystem) else None
            if self.url.partition(":")[0] in BUCKETS:
                self._bucket = self._root.lstrip("/").partition("/")[0]
        return self._opened

    @property
    def is_there(self) -> bool:
        """Whether there is such a folder; of what a URL names that is not known before something is written."""
        return self._folder is None or self._folder.is_dir()

    @property
    def has_room(self) -> bool:
        """Whether there is such a folder, or the one that it would be made in."""
        return self.is_there or (self._folder is not None and self._folder.parent.is_dir())

    def names(self, folder: str) -> list[str]:
        """The names in a folder; none of one that is not there.

        Raises:
            RepositoryAway: the place cannot be reached, or the bucket that it is in does not exist.
        """
        fs = self._open()
        with self._reached("listed"):
            if self._folder is not None:
                self._require_folder(self._folder)
                place = self._folder / folder
                return [] if not place.is_dir() else [name for name in os.listdir(place) if not name.startswith(".")]
            try:
                found = fs.ls(f"{self._root}/{folder}", detail=False)
            except FileNotFoundError:
                self._require_bucket(fs)
                return []
            return [path.rstrip("/").rpartition("/")[2] for path in found[:LISTED_AT_MOST]]

    def read(self, name: str, most: int) -> bytes:
        """The content of a file. Raises RepositoryError where it is not there, or has more bytes than `most`."""
        fs = self._open()
        with self._reached(f"read: {name}"):
            content: bytes = fs.cat_file(f"{self._root}/{name}", end=most + 1)
        if len(content) > most:
            raise RepositoryError(f"{self.url}: {name} has more than {most} bytes")
        return content

    def create(self, name: str, content: bytes) -> bool:
        """Write a file whole; False, and nothing is changed, where there is one of this name already."""
        fs = self._open()
        with self._reached(f"written: {name}"):
            fs.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
            try:
                if self._folder is not None:
                    _link(self._folder / name, content)
                else:
                    fs.pipe_file(f"{self._root}/{name}", content, mode="create")
            except FileExistsError:
                return False
        return True

    @staticmethod
    def _require_folder(folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(20, "not a folder")

    def _require_bucket(self, fs: Any) -> None:
        with contextlib.suppress(PermissionError):  # a key that may list what is in it may not ask for it
            if self._bucket and not fs.exists(self._bucket):
                raise RepositoryAway(f"the repository {self.url} is not there: there is no bucket {self._bucket}")

    @contextlib.contextmanager
    def _reached(self, what: str) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise RepositoryError(f"{self.url}: {str(error).splitlines()[0]} (a package of fsspec)") from error
        except RepositoryError:
            raise
        except Exception as error:  # each file system raises classes of its own
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
            kind = RepositoryError if isinstance(error, (FileNotFoundError, ValueError)) else RepositoryAway
            raise kind(f"the repository {self.url} cannot be {what} ({reason:.200})") from error


def _link(path: Path, content: bytes) -> None:
    """Write a file beside its place, and give it its name in one step. Raises FileExistsError."""
    beside = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
