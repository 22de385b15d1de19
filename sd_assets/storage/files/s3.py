"""The file operations on S3."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from sd_assets.errors import GoneError, ReadError, WriteError
from sd_assets.storage.files.s3_attempts import Attempts
from sd_assets.storage.files.s3_connection import S3Connection
from sd_assets.storage.files.s3_errors import explained
from sd_assets.storage.files.streams import TAIL_BYTES, RangedFile, joined

# The most that one PUT may bring: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html. Our shards are
# of about 32 MB at most (a row's size is guessed where it has lists), and files of exports of a few GB, so nothing is uploaded
# in parts: a PUT needs no cleaning up.
_MAX_PUT_BYTES = 5 * 1024**3

T = TypeVar("T")


class S3Files:
    """A prefix of an S3 bucket (or of any server that speaks the protocol, conditional PUT included).

    Requests that fail for a reason that may pass are tried again, up to the last byte of their answer; see `s3_attempts`.
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
        self._change(path, lambda: self._client.put_object(**self._at(path), Body=joined(data)))

    def create(self, path: str, data: bytes | pa.Buffer) -> bool:
        attempts = 0

        def ask() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                self._client.put_object(**self._at(path), Body=bytes(data), IfNoneMatch="*")
            except self._client.exceptions.ClientError as error:
                if _status(error) != 412:
                    raise
                return False  # the name is taken
            return True

        # By us, perhaps: if this was not the first try, and the answer to an earlier one was lost.
        return self._change(path, ask) or (attempts > 1 and self._holds(path, bytes(data)))

    def get(self, path: str) -> bytes:
        return self._read(path, lambda: self._fetched(path)[0])

    def open(self, path: str) -> pa.NativeFile:
        def ask() -> tuple[bytes, dict[str, Any]] | None:
            try:
                return self._fetched(path, Range=f"bytes=-{TAIL_BYTES}")
            except self._client.exceptions.ClientError as error:
                if _status(error) != 416:
                    raise
                return None

        found = self._read(path, ask)
        if found is None:  # an empty object has no last bytes
            return pa.BufferReader(b"")
        tail, answer = found
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
        def ask() -> None:
            try:
                self._client.copy_object(**self._at(target), CopySource=self._at(source))
            except self._client.exceptions.ClientError as error:
                if _is_missing(error):
                    raise FileNotFoundError(self._uri_of(source)) from None
                raise

        self._change(target, ask)

    def delete(self, path: str) -> None:
        self._change(path, lambda: self._client.delete_object(**self._at(path)))

    def sweep_temporary(self, older_than_s: float) -> None:
        """Nothing: an object appears whole or not at all."""

    def _objects(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The objects directly in a folder, by name, as the server lists them."""
        prefix = f"{self._prefix}{folder}/"
        for page in self._pages(folder):
            for item in page.get("Contents", ()):
                # One without a name stands for the folder itself: consoles make them.
                if name := item["Key"].removeprefix(prefix):
                    yield name, item

    def _pages(self, folder: str) -> Iterator[dict[str, Any]]:
        from botocore.parsers import ResponseParserError

        wanted = {"Bucket": self._bucket, "Prefix": f"{self._prefix}{folder}/", "Delimiter": "/"}

        def ask() -> dict[str, Any]:
            page: dict[str, Any] = self._client.list_objects_v2(**wanted)
            if "IsTruncated" not in page:  # a page of some other server, in which boto3 finds no objects
                raise ResponseParserError
            return page

        while True:
            page = self._read(f"{folder}/", ask)
            yield page
            if not page["IsTruncated"]:
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    def _holds(self, path: str, data: bytes) -> bool:
        try:
            return self.get(path) == data
        except FileNotFoundError:
            return False

    def _part(self, path: str, version: str, start: int, end: int) -> bytes:
        """The bytes of an object from a start to an end. Raises GoneError if it is not of that version any more, or gone."""

        def ask() -> bytes:
            try:
                return self._fetched(path, Range=f"bytes={start}-{end - 1}", IfMatch=version)[0]
            except FileNotFoundError:
                what = "deleted"
            except self._client.exceptions.ClientError as error:
                if _status(error) != 412:
                    raise
                what = "written anew"
            raise GoneError(f"cannot read {self._uri_of(path)}: it was {what} while it was read: run again")

        return self._read(path, ask)

    def _fetched(self, path: str, **wanted: str) -> tuple[bytes, dict[str, Any]]:
        """An object or a range of it, and the answer. Raises FileNotFoundError if there is no such object."""
        from botocore.parsers import ResponseParserError

        try:
            answer: dict[str, Any] = self._client.get_object(**self._at(path), **wanted)
        except self._client.exceptions.ClientError as error:
            if _is_missing(error):
                raise FileNotFoundError(self._uri_of(path)) from None
            raise
        with closing(answer["Body"]) as body:
            if "ETag" not in answer:  # a page of some other server
                raise ResponseParserError
            return body.read(), answer

    def _change(self, path: str, ask: Callable[[], T]) -> T:
        return self._asked(path, ask, "write", WriteError, ". Nothing that was committed is touched")

    def _read(self, path: str, ask: Callable[[], T]) -> T:
        return self._asked(path, ask, "read", ReadError, "")

    def _asked(
        self, path: str, ask: Callable[[], T], what: str, failure: type[ReadError | WriteError], comfort: str
    ) -> T:
        """What the server says to a request, which is made again from its beginning if it fails for a reason that may pass.

        Raises:
            ReadError, WriteError: it could not be done; says what went wrong, and where.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError

        attempts = Attempts(self._connection.max_attempts)
        while True:
            try:
                return ask()
            except (ClientError, BotoCoreError, ResponseParserError, HTTPError) as error:
                if attempts.again(error):
                    continue
                why = explained(error, attempts.number)
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


def _status(error: Any) -> int:
    status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return status
