"""Where anchors are kept: a folder or an S3-compatible bucket, written once per name and never overwritten."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, MemoryStore, S3Store

MOST = 16 * 2**20  # bytes of an object: several times the entries of the largest anchor
UNREACHABLE = (BaseError, OSError, TimeoutError)  # what a store that is away raises


class Store:
    """Objects by name. create() is the only way in, and it refuses a name that is taken."""

    def __init__(self, objects: Any, folder: Path | None = None) -> None:
        self.objects, self.folder = objects, folder

    async def create(self, name: str, content: bytes) -> bool:
        """Writes a new object; False when there is one of this name, which stays as it is."""
        try:
            await obstore.put_async(self.objects, name, content, mode="create")
        except (AlreadyExistsError, FileExistsError):
            return False
        if self.folder:
            await asyncio.to_thread(settle, self.folder / name)
        return True

    async def get(self, name: str) -> bytes | None:
        """None when there is no object of this name, or one that is larger than any of ours."""
        try:
            found = await obstore.get_async(self.objects, name)
            if found.meta["size"] > MOST:  # whoever reaches the store is not to fill our memory
                return None
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            return None

    async def names(self, prefix: str, after: str | None = None) -> AsyncIterator[str]:
        """The names below a folder in their order, from the one after `after` on."""
        # A folder is listed in no order. Names are short; a tenant's are sorted here.
        found: list[str] = []
        async for page in obstore.list(self.objects, prefix, offset=after):
            found += [one["path"] for one in page]
        for name in sorted(found):
            yield name


def open_store(place: str) -> Store:
    """`s3://bucket/prefix` (credentials, region and endpoint from AWS_* variables), `memory:` in tests, else a folder."""
    if place == "memory:":
        return Store(MemoryStore())
    if place.startswith("s3://"):
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        retry: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
        options: Any = {"timeout": "10s", "connect_timeout": "3s"}
        if os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://"):
            options["allow_http"] = True
        objects = S3Store(bucket, prefix=prefix.strip("/") or None, client_options=options, retry_config=retry)
        return Store(objects)
    folder = Path(place.removeprefix("file://")).absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Store(LocalStore(folder), folder)


def settle(path: Path) -> None:
    """To the disk: an object whose name outlives a power cut and whose bytes do not would look like tampering."""
    for one in (path, path.parent):
        handle = os.open(one, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
