"""The client of Cloud Storage: objects of one bucket, read with their checksum and written conditionally.

What the objects contain is defined in `storage.gcs`.
"""

import base64
import hashlib
import os
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Self

from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud import storage

from mbta_assets.gcp.account import Account
from mbta_assets.settings import Settings, SettingsError

UPLOAD_CHUNK_BYTES = 8 * 1024 * 1024
"""Bytes of a file that are in memory while it is uploaded."""
REQUIRED_PERMISSIONS = ("storage.objects.create", "storage.objects.delete", "storage.objects.get")
"""Permissions on the bucket; replacing an object takes the permission to delete it."""


@dataclass(frozen=True)
class ObjectInfo:
    """Metadata of an object: its generation, and the base64-encoded MD5 of its content, None for a composite object."""

    generation: int
    md5: str | None
    updated: datetime
    """When it was written (UTC)."""


@dataclass(frozen=True)
class ListedObject:
    """An object of a listing."""

    path: str
    generation: int
    size_bytes: int
    updated: datetime
    """When it was written (UTC)."""


class Bucket:
    """A bucket, called by an account."""

    def __init__(self, account: Account, name: str) -> None:
        self.account = account
        self.name = name

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the bucket of models and reports; nothing is called yet. Raises SettingsError where none is set."""
        if settings.gcs_bucket is None:
            raise SettingsError("GCS_BUCKET is not set; it names the bucket of models and reports.")
        return cls(Account.from_settings(settings), settings.gcs_bucket)

    @cached_property
    def client(self) -> storage.Client:
        """Return Google's client. Raises CloudError where there are no credentials."""
        # Otherwise the library reads each bucket's metadata in the background, which takes one more permission.
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        emulator = self.account.storage_emulator
        session = self.account.session(anonymous=emulator is not None)
        return storage.Client(
            self.account.project,
            credentials=session.credentials,
            _http=session,
            client_options={"api_endpoint": emulator} if emulator else None,
        )

    def uri(self, path: str) -> str:
        """Return the `gs://` address of an object."""
        return f"gs://{self.name}/{path}"

    def missing_permissions(self) -> list[str]:
        """Return the required permissions that the account does not have. Raises CloudError if there is no bucket."""
        bucket = self.client.bucket(self.name)

        def test() -> list[str]:
            try:
                return bucket.test_iam_permissions(REQUIRED_PERMISSIONS, retry=None)
            except NotFound:
                if bucket.exists(retry=None):
                    return list(REQUIRED_PERMISSIONS)  # an emulator, which has no permissions
                raise

        granted = self.account.call(f"There is no bucket {self.name} to open", test)
        return [permission for permission in REQUIRED_PERMISSIONS if permission not in granted]

    def read(self, path: str) -> tuple[bytes, int] | None:
        """Return an object's content, its checksum verified, and its generation; None if there is no such object.

        Raises CloudError.
        """
        # No chunk size: with one, the library does not report the generation it has read.
        blob = self.client.bucket(self.name).blob(path)

        def download() -> tuple[bytes, int] | None:
            try:
                content = blob.download_as_bytes(checksum="auto", retry=self.account.retry)
            except NotFound:
                return None
            return content, int(blob.generation)

        return self.account.call(f"Read {self.uri(path)}", download)

    def put(self, path: str, content: bytes | Path, expected_generation: int) -> int | None:
        """Write an object if its generation is the expected one, 0 for an object that does not exist.

        Returns the new generation, or None if another writer has changed the object. The checksum of the stored content
        is compared, also to recognize an own write whose response was lost. Raises CloudError.
        """
        blob = self.client.bucket(self.name).blob(path, chunk_size=UPLOAD_CHUNK_BYTES)
        options = {"if_generation_match": expected_generation, "checksum": "crc32c", "retry": self.account.retry}

        def upload() -> int | None:
            try:
                if isinstance(content, Path):
                    blob.upload_from_filename(content, **options)
                else:
                    blob.upload_from_string(content, "application/json", **options)
            except PreconditionFailed:
                stored = self.stat(path)
                is_own_write = stored is not None and stored.md5 == compute_md5(content)
                return stored.generation if stored and is_own_write else None
            return int(blob.generation)

        return self.account.call(f"Write {self.uri(path)}", upload)

    def delete(self, path: str) -> None:
        """Delete an object. Raises CloudError, also if there is no such object."""
        with self.account.translate_errors(f"Delete {self.uri(path)}"):
            self.client.bucket(self.name).delete_blob(path, retry=self.account.retry)

    def delete_generation(self, path: str, generation: int) -> bool:
        """Delete an object if its generation is this one, and return whether it is gone. Raises CloudError."""
        bucket = self.client.bucket(self.name)

        def delete() -> bool:
            try:
                bucket.delete_blob(path, if_generation_match=generation, retry=self.account.retry)
            except NotFound:
                return True  # also after an own request whose response was lost
            except PreconditionFailed:
                return False
            return True

        return self.account.call(f"Delete {self.uri(path)}", delete)

    def list_objects(self, prefix: str, *, recursive: bool = True) -> list[ListedObject]:
        """Return the objects whose path begins with a prefix, also those with further slashes if `recursive`.

        Raises CloudError.
        """
        bucket = self.client.bucket(self.name)
        delimiter = None if recursive else "/"

        def read() -> list[ListedObject]:
            blobs = bucket.list_blobs(prefix=prefix, delimiter=delimiter, retry=self.account.retry)
            return [ListedObject(blob.name, int(blob.generation), blob.size or 0, blob.updated) for blob in blobs]

        return self.account.call(f"List {self.uri(prefix)}", read)

    def list_folders(self, prefix: str) -> list[str]:
        """Return the beginnings of paths up to the first slash after a prefix. Raises CloudError."""
        bucket = self.client.bucket(self.name)

        def read() -> list[str]:
            pages = bucket.list_blobs(prefix=prefix, delimiter="/", retry=self.account.retry)
            for _ in pages:
                pass  # the folders are known when every page has been read
            return sorted(pages.prefixes)

        return self.account.call(f"List the folders of {self.uri(prefix)}", read)

    def stat(self, path: str) -> ObjectInfo | None:
        """Return an object's metadata, or None if there is no such object. Raises CloudError."""
        bucket = self.client.bucket(self.name)
        blob = self.account.call(f"Get the metadata of {self.uri(path)}", lambda: bucket.get_blob(path, retry=None))
        return ObjectInfo(int(blob.generation), blob.md5_hash, blob.updated) if blob else None


def compute_md5(content: bytes | Path) -> str:
    """Return the MD5 of bytes or of a file, base64-encoded as Cloud Storage reports it."""
    if isinstance(content, bytes):
        return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return base64.b64encode(digest.digest()).decode()
