"""Places in which an archive keeps its files: a directory, a bucket, or one file that others made.

A file is there as a whole or not at all, whenever the writer is killed. What the files contain is up to `archive` and
`editions`.
"""

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mbta_assets.settings import Settings

if TYPE_CHECKING:  # Google's client takes seconds to import
    from mbta_assets.gcp.bucket import Bucket

BUCKET_PREFIX = "gs://"
LOCK, UNFINISHED = ".lock", ".unfinished"
"""Names of the lock of a directory, and the ending of files that are being written; readers skip both."""
MAX_REPLACE_ATTEMPTS = 10


class ArchiveError(Exception):
    """The feed archive cannot be read or written; the message says what, where, and what to do."""


@dataclass(frozen=True)
class StoredFile:
    """A file of an archive."""

    path: str
    """Relative to the archive, with slashes."""
    size_bytes: int
    version: str
    """Differs if the file was written again."""


class Place(ABC):
    """Where the files of an archive are. All methods raise ArchiveError, or CloudError if it is a bucket."""

    name: str
    """Path or address, for messages."""

    @abstractmethod
    def list_files(self, prefix: str = "") -> list[StoredFile]:
        """Return the files whose path begins with a prefix, in the order of their paths; those being written not.

        An empty prefix is for the files that are in no folder.
        """

    @abstractmethod
    def list_folders(self, prefix: str = "") -> list[str]:
        """Return the folders right below a prefix that is empty or a folder, each with a slash at its end."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is none."""

    @abstractmethod
    def add(self, path: str, content: bytes) -> None:
        """Write a file durably whose path says what it contains; one that is there already stays."""

    @abstractmethod
    def replace(self, path: str, old: bytes | None, content: bytes) -> bool:
        """Replace a file durably if its content is still the old one, None for no file; return whether it was."""

    @abstractmethod
    def hold_exclusively(self) -> AbstractContextManager[None]:
        """Return a context in which no other process of this kind writes, as far as the place can tell."""


class DirectoryPlace(Place):
    """A directory, which is created by the first write."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.name = directory, str(directory)

    def list_files(self, prefix: str = "") -> list[StoredFile]:
        """Return the files whose path begins with a prefix; names that begin with a dot are not read."""
        below = self.directory / prefix.rpartition("/")[0]
        files = []
        for parent, directories, names in os.walk(below):
            directories[:] = [name for name in directories if prefix and not name.startswith(".")]
            for name in names:
                path = Path(parent, name)
                relative = path.relative_to(self.directory).as_posix()
                if name.startswith(".") or not relative.startswith(prefix):
                    continue
                with suppress(FileNotFoundError):
                    status = path.stat()
                    version = f"{status.st_mtime_ns:x}.{status.st_ino:x}"
                    files.append(StoredFile(relative, status.st_size, version))
        return sorted(files, key=lambda file: file.path)

    def list_folders(self, prefix: str = "") -> list[str]:
        """Return the directories right below a prefix."""
        with suppress(FileNotFoundError), os.scandir(self.directory / prefix) as entries:
            return sorted(f"{prefix}{entry.name}/" for entry in entries if entry.is_dir() and entry.name[0] != ".")
        return []

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is none."""
        try:
            return (self.directory / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _cannot("read", self.directory / path, error) from error

    def add(self, path: str, content: bytes) -> None:
        """Write a file durably; one that is there already stays."""
        if not (self.directory / path).exists():
            self._write(self.directory / path, content)

    def replace(self, path: str, old: bytes | None, content: bytes) -> bool:
        """Replace a file durably if its content is still the old one, and return whether it was."""
        if self.read(path) != old:
            return False
        self._write(self.directory / path, content)
        return True

    @contextmanager
    def hold_exclusively(self) -> Iterator[None]:
        """Hold the lock of the directory, and remove what writers that were killed have left."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.directory / LOCK, os.O_CREAT | os.O_RDWR)
        except OSError as error:
            raise _cannot("write in", self.directory, error) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArchiveError(
                    f"Another collector writes in {self.directory}. Stop it first, or set MBTA_FEED_ARCHIVE to another "
                    "directory."
                ) from None
            for abandoned in self.directory.rglob(f".*{UNFINISHED}"):
                abandoned.unlink(missing_ok=True)
            yield
        finally:
            os.close(lock)  # the kernel does it too where the process is killed

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file next to its place, flush it to disk, and rename it."""
        unfinished = path.with_name(f".{path.name}{UNFINISHED}")
        try:
            missing = [parent for parent in path.parents if not parent.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            for directory in {path.parent, *(parent.parent for parent in missing)}:
                _sync_directory(directory)
        except OSError as error:
            raise _cannot("write", path, error) from error


class FilePlace(Place):
    """One file, such as a zip of snapshots; nothing can be written."""

    def __init__(self, file: Path) -> None:
        self._directory, self._file, self.name = DirectoryPlace(file.parent), file.name, str(file)

    def list_files(self, prefix: str = "") -> list[StoredFile]:
        """Return the file if its name begins with the prefix."""
        return [file for file in self._directory.list_files() if file.path == self._file and not prefix]

    def list_folders(self, prefix: str = "") -> list[str]:
        """Return none."""
        return []

    def read(self, path: str) -> bytes | None:
        """Return the content of the file."""
        return self._directory.read(path) if path == self._file else None

    def add(self, path: str, content: bytes) -> None:
        """Raise ArchiveError."""
        raise ArchiveError(f"{self.name} is a file that others made. Set MBTA_FEED_ARCHIVE to a directory or bucket.")

    def replace(self, path: str, old: bytes | None, content: bytes) -> bool:
        """Raise ArchiveError."""
        self.add(path, content)
        return False

    @contextmanager
    def hold_exclusively(self) -> Iterator[None]:
        """Raise ArchiveError."""
        self.add("", b"")
        yield


class BucketPlace(Place):
    """The objects of a bucket whose path begins with a prefix. Only one collector may write there."""

    def __init__(self, bucket: "Bucket", prefix: str = "") -> None:
        self.bucket, self.prefix = bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.name = bucket.uri(self.prefix)

    def list_files(self, prefix: str = "") -> list[StoredFile]:
        """Return the objects whose path begins with a prefix. Raises CloudError."""
        objects = self.bucket.list_objects(self.prefix + prefix, recursive=bool(prefix))
        files = [StoredFile(item.path[len(self.prefix) :], item.size_bytes, str(item.generation)) for item in objects]
        shown = [file for file in files if not any(part.startswith(".") for part in file.path.split("/"))]
        return sorted(shown, key=lambda file: file.path)

    def list_folders(self, prefix: str = "") -> list[str]:
        """Return what is between a prefix and the next slash in the paths of objects. Raises CloudError."""
        folders = [folder[len(self.prefix) :] for folder in self.bucket.list_folders(self.prefix + prefix)]
        return sorted(folder for folder in folders if not folder[len(prefix) :].startswith("."))

    def read(self, path: str) -> bytes | None:
        """Return the content of an object, or None if there is none. Raises CloudError."""
        stored = self.bucket.read(self.prefix + path)
        return stored[0] if stored else None

    def add(self, path: str, content: bytes) -> None:
        """Write an object; one that is there already stays. Raises CloudError."""
        self.bucket.put(self.prefix + path, content, 0)

    def replace(self, path: str, old: bytes | None, content: bytes) -> bool:
        """Replace an object if its content is still the old one, and return whether it was. Raises CloudError."""
        stored = self.bucket.read(self.prefix + path)
        if (stored[0] if stored else None) != old:
            return False
        return self.bucket.put(self.prefix + path, content, stored[1] if stored else 0) is not None

    @contextmanager
    def hold_exclusively(self) -> Iterator[None]:
        """Do nothing: a bucket has no locks, and what two collectors store twice is read once."""
        yield


def open_place(address: str | Path, settings: Settings) -> Place:
    """Return the place at an address: gs://bucket/prefix, a directory, or a file. Nothing is read yet."""
    if str(address).startswith(BUCKET_PREFIX):
        from mbta_assets.gcp.account import Account  # Google's client takes seconds to import
        from mbta_assets.gcp.bucket import Bucket

        name, _, prefix = str(address).removeprefix(BUCKET_PREFIX).partition("/")
        return BucketPlace(Bucket(Account.from_settings(settings), name), prefix)
    path = Path(address)
    return FilePlace(path) if path.is_file() else DirectoryPlace(path)


def open_feed_archive(settings: Settings) -> Place:
    """Return the place of the feed archive of a deployment. Nothing is read yet."""
    return open_place(settings.feed_archive or settings.store / "feeds", settings)


def _cannot(verb: str, path: Path, error: OSError) -> ArchiveError:
    return ArchiveError(
        f"Cannot {verb} {path}: {error.strerror or error}. Check the disk, and that this user may do it; "
        "MBTA_FEED_ARCHIVE names the archive."
    )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
