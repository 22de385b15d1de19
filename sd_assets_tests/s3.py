"""A real S3 protocol server (moto) for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from moto.server import ThreadedMotoServer

from sd_assets.storage.files import S3Connection, S3Files

# What every test's process, and those that it starts, find as their credentials.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
# What a developer's environment may have, and no test may use.
_OTHERS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION")


@dataclass(frozen=True)
class S3Server:
    """A server that runs."""

    connection: S3Connection

    @property
    def client(self) -> Any:
        """A boto3 client, to look past the storage."""
        return self.connection.client()

    def files(self, uri: str) -> S3Files:
        return S3Files(self.connection, uri)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server of its own, with an empty bucket `data`; credentials for it are in the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with mock.patch.dict(os.environ, CREDENTIALS):
        for name in _OTHERS:
            os.environ.pop(name, None)
        server.start()
        try:
            host, port = server.get_host_and_port()
            s3 = S3Server(S3Connection(endpoint_url=f"http://{host}:{port}"))
            s3.client.create_bucket(Bucket="data")
            yield s3
        finally:
            server.stop()
