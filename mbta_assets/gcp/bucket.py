"""Objects of a bucket of Cloud Storage: read with their checksum, written over an expected generation only."""

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from mbta_assets.gcp.account import Account

if TYPE_CHECKING:
    from google.cloud import storage

CHUNK_BYTES = 8 * 1024 * 1024
"""How much of a file is in memory while it is uploaded."""
NEEDED = ("storage.objects.create", "storage.objects.delete", "storage.objects.get")
"""Permissions on the bucket; to replace an object one must be allowed to delete it."""


class Bucket:
    """Objects of a bucket, for somebody."""

    def __init__(self, account: Account, name: str) -> None:
        self.account = account
        self.name = name

    def uri(self, path: str) -> str:
        """The address of an object."""
        return f"gs://{self.name}/{path}"

    def lacking(self) -> list[str]:
        """The permissions that are needed on the bucket and not there. Raises CloudError where there is no bucket."""
        from google.api_core.exceptions import NotFound

        bucket = self.account.storage.bucket(self.name)

        def ask() -> list[str]:
            try:
                return bucket.test_iam_permissions(NEEDED, retry=None)
            except NotFound:
                if bucket.exists(retry=None):
                    return list(NEEDED)  # an emulator, which knows no permissions
                raise

        granted = self.account.call(f"There is no bucket {self.name} to open", ask)
        return [permission for permission in NEEDED if permission not in granted]

    def read(self, path: str) -> tuple[bytes, int] | None:
        """An object's content and generation, its checksum verified; None where there is no such object."""
        from google.api_core.exceptions import NotFound

        # With a chunk size the library would not tell the generation of what it read.
        blob = self.account.storage.bucket(self.name).blob(path)

        def download() -> tuple[bytes, int] | None:
            try:
                content = blob.download_as_bytes(checksum="auto", retry=self.account.retry)
            except NotFound:
                return None
            return content, int(blob.generation)

        return self.account.call(f"Read {self.uri(path)}", download)

    def put(self, path: str, content: bytes | Path, expected: int) -> int | None:
        """Write an object if its generation is as expected (0: there is none). Returns the new one, None if it is not.

        The checksum of what arrived is compared. An answer that got lost is told from somebody else's object by what
        it holds.
        """
        from google.api_core.exceptions import PreconditionFailed

        blob = self.account.storage.bucket(self.name).blob(path, chunk_size=CHUNK_BYTES)
        options = {"if_generation_match": expected, "checksum": "crc32c", "retry": self.account.retry}

        def upload() -> int | None:
            try:
                if isinstance(content, Path):
                    blob.upload_from_filename(content, **options)
                else:
                    blob.upload_from_string(content, "application/json", **options)
            except PreconditionFailed:
                there = self.look(path)
                same = there is not None and there.md5_hash == md5(content)
                return int(there.generation) if there and same else None
            return int(blob.generation)

        return self.account.call(f"Write {self.uri(path)}", upload)

    def remove(self, path: str) -> None:
        """Remove an object. Raises CloudError."""
        with self.account.explained(f"Remove {self.uri(path)}"):
            self.account.storage.bucket(self.name).delete_blob(path, retry=self.account.retry)

    def look(self, path: str) -> "storage.Blob | None":
        """What the bucket says of an object: generation, size, checksums; None where there is no such object."""
        bucket = self.account.storage.bucket(self.name)
        return self.account.call(f"Look at {self.uri(path)}", lambda: bucket.get_blob(path, retry=None))


def md5(content: bytes | Path) -> str:
    """The checksum that Cloud Storage keeps of an object."""
    if isinstance(content, bytes):
        return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return base64.b64encode(digest.digest()).decode()
