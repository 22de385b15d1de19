"""The file operations on S3."""

import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import Any

import pyarrow as pa

from sd_assets.errors import ReadError, WriteError
from sd_assets.storage.files.s3_connection import S3Connection
from sd_assets.storage.files.s3_errors import explained
from sd_assets.storage.files.streams import TAIL_BYTES, RangedFile, joined

# The most that one PUT may bring: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html. Our shards are of at
# most 32 MB, and files of exports of a few GB, so nothing is uploaded in parts: a PUT needs no cleaning up.
_MAX_PUT_BYTES = 5 * 1024**3


class S3Files:
    """A prefix of an S3 bucket (or of any server that speaks the protocol, conditional PUT included).

    Requests that fail for a reason that may pass are tried again, by boto3 up to the answer's head, by us up to its last byte.
    What does not pass is a WriteError, or a ReadError where nothing was to be changed.

    Can be pickled: another process makes a client of its own, with the credentials that it finds there.

    Args:
        connection: how to reach the server.
        uri: `s3://bucket/prefix`.
    """

    def __init__(self, connection: S3Connection, uri: str) -> None:
        self._connection = connection
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        self.uri = uri.rstrip("/")

    @property
    def _client(self) -> Any:
        return self._connection.client()

    def put(self, path: str, *data: bytes | pa.Buffer) -> None:
        size = sum(map(len, data))
        if size > _MAX_PUT_BYTES:
            raise WriteError(
                f"cannot write {self._uri_of(path)}: it has {size} bytes, and S3 takes {_MAX_PUT_BYTES} at once: let the files be "
                "smaller"
            )
        with self._changing(path):
            self._client.put_object(**self._at(path), Body=joined(data))

    def create(self, path: str, data: bytes | pa.Buffer) -> bool:
        attempt = 0
        with self._changing(path):
            while True:
                attempt += 1
                try:
                    self._client.put_object(**self._at(path), Body=bytes(data), IfNoneMatch="*")
                    return True
                except self._client.exceptions.ClientError as error:
                    answer = error.response["ResponseMetadata"]
                    if answer["HTTPStatusCode"] == 412:  # the name is taken
                        # By us, perhaps: if this was not the first try, and the answer to an earlier one was lost.
                        again = attempt > 1 or answer.get("RetryAttempts", 0) > 0
                        return again and self._holds(path, bytes(data))
                    # 409: another writer of the name is under way; who of us wins is to be seen.
                    if answer["HTTPStatusCode"] != 409 or attempt == self._connection.max_attempts:
                        raise
                    _pause(attempt)

    def get(self, path: str) -> bytes:
        with self._reading(path):
            return self._fetched(path)[0]

    def open(self, path: str) -> pa.NativeFile:
        with self._reading(path):
            try:
                tail, answer = self._fetched(path, Range=f"bytes=-{TAIL_BYTES}")
            except self._client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 416:
                    raise
                return pa.BufferReader(b"")  # an empty object has no last bytes
        # Of a server that knows no ranges all has come.
        size = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(tail)
        return pa.PythonFile(RangedFile(partial(self._part, path, answer["ETag"]), tail, size), mode="r")

    def names(self, folder: str) -> list[str]:
        return sorted(self.ages(folder))

    def ages(self, folder: str) -> dict[str, float]:
        now = time.time()
        return {name: now - item["LastModified"].timestamp() for name, item in self._objects(folder)}

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: item["Size"] for name, item in self._objects(folder)}

    def folders(self, folder: str) -> list[str]:
        prefix = f"{self._prefix}{folder}/"
        found = (item["Prefix"] for page in self._pages(folder) for item in page.get("CommonPrefixes", ()))
        return sorted(name.removeprefix(prefix).rstrip("/") for name in found)

    def usage(self, *folders: str) -> int:
        return sum(item["Size"] for folder in folders for _, item in self._objects(folder))

    def project(self, source: str, target: str) -> None:
        with self._changing(target):
            try:
                self._client.copy_object(**self._at(target), CopySource=self._at(source))
            except self._client.exceptions.ClientError as error:
                if _is_missing(error):
                    raise FileNotFoundError(self._uri_of(source)) from None
                raise

    def delete(self, path: str) -> None:
        with self._changing(path):
            self._client.delete_object(**self._at(path))

    def sweep_temporary(self, older_than_s: float) -> None:
        """Nothing: an object appears whole or not at all."""

    def _objects(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The objects directly in a folder, by name, as the server lists them."""
        prefix = f"{self._prefix}{folder}/"
        for page in self._pages(folder):
            for item in page.get("Contents", ()):
                yield item["Key"].removeprefix(prefix), item

    def _pages(self, folder: str) -> Iterator[dict[str, Any]]:
        with self._reading(f"{folder}/"):
            paginator = self._client.get_paginator("list_objects_v2")
            prefix = self._at(f"{folder}/")["Key"]
            yield from paginator.paginate(Bucket=self._bucket, Prefix=prefix, Delimiter="/")

    def _holds(self, path: str, data: bytes) -> bool:
        try:
            return self.get(path) == data
        except FileNotFoundError:
            return False

    def _part(self, path: str, version: str, start: int, end: int) -> bytes:
        """The bytes of an object from a start to an end. Raises ReadError if it is not of that version any more, or gone."""
        with self._reading(path):
            try:
                return self._fetched(path, Range=f"bytes={start}-{end - 1}", IfMatch=version)[0]
            except FileNotFoundError:
                raise ReadError(
                    f"cannot read {self._uri_of(path)}: it was deleted while it was read: run again"
                ) from None

    def _fetched(self, path: str, **wanted: str) -> tuple[bytes, dict[str, Any]]:
        """An object or a range of it, and the answer; asked for again if the connection is cut before its end.

        From its beginning: ranges are of a few MB, and a whole object may have been replaced in the meantime.

        Raises:
            FileNotFoundError: there is no such object.
        """
        from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError

        attempt = 0
        while True:
            attempt += 1
            answer = self._answer(path, wanted)
            try:
                with closing(answer["Body"]) as body:
                    return body.read(), answer
            except (HTTPClientError, IncompleteReadError, FlexibleChecksumError):
                if attempt == self._connection.max_attempts:
                    raise
            _pause(attempt)

    def _answer(self, path: str, wanted: dict[str, str]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._client.get_object(**self._at(path), **wanted)
        except self._client.exceptions.ClientError as error:
            if _is_missing(error):
                raise FileNotFoundError(self._uri_of(path)) from None
            raise
        return answer

    def _changing(self, path: str) -> AbstractContextManager[None]:
        return self._asking(path, "write", WriteError, ". Nothing that was committed is touched")

    def _reading(self, path: str) -> AbstractContextManager[None]:
        return self._asking(path, "read", ReadError, "")

    @contextmanager
    def _asking(
        self, path: str, what: str, failure: type[ReadError | WriteError], comfort: str
    ) -> Iterator[None]:
        """Around every request: says what went wrong, and where.

        Raises:
            ReadError, WriteError: it could not be done.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError) as error:
            why = explained(error, self._connection.max_attempts)
            # Not `from error`: it may quote headers, and an event of Dagster holds all causes.
            raise failure(
                f"cannot {what} {self._uri_of(path)} at {self._client.meta.endpoint_url}: {why}{comfort}"
            ) from None

    def _uri_of(self, path: str) -> str:
        return f"{self.uri}/{path}"

    def _at(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + path}


def _is_missing(error: Any) -> bool:
    """Whether an answer says that there is no such object; 404 alone is one that was cut."""
    return error.response["Error"]["Code"] in ("NoSuchKey", "404")


def _pause(attempt: int) -> None:
    """As boto3 waits between attempts."""
    time.sleep(random.random() * min(0.05 * 2 ** (attempt - 1), 20))
