"""How S3 is reached: a client a process, and no credentials of ours."""

import os
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sd_assets.errors import SdAssetsError

# So often a request is tried, with waits between: see `s3_attempts`.
MAX_ATTEMPTS = 10
# Silence for so long is a failure, of who is connected to and of an answer: a peer that is gone must not hold up a run.
_CONNECT_S = 5
_READ_S = 20
# Kept open: as many as the storage has requests under way at once, and the lease and a reader beside it.
_CONNECTIONS = 32

_clients: dict[tuple[int, "S3Connection"], Any] = {}
_making = threading.Lock()


@dataclass(frozen=True)
class S3Connection:
    """How to reach S3, or a server that speaks its protocol; what is None is found as boto3 finds it.

    Credentials are no part of it: each process takes them from its environment, the profile's files, or the role of its
    machine, so none travels with a pickle.

    Attributes:
        endpoint_url: of a server that is not AWS: `http://127.0.0.1:9000`. None: `AWS_ENDPOINT_URL`, or AWS itself.
        region_name: None: `AWS_DEFAULT_REGION`, or what the profile says.
        profile_name: a profile of `~/.aws`. None: `AWS_PROFILE`, or none.
        verify: whether the certificate of an https server must be valid. None: it must, by the bundle `AWS_CA_BUNDLE` if set.
        max_attempts: so often a request is tried, at least once.

    Raises:
        SdAssetsError: there are credentials in the endpoint.
    """

    endpoint_url: str | None = None
    region_name: str | None = None
    profile_name: str | None = None
    verify: bool | None = None
    max_attempts: int = MAX_ATTEMPTS

    def __post_init__(self) -> None:
        _require_public(self.endpoint_url, "endpoint_url")

    def client(self) -> Any:
        """The boto3 client of this process; threads share it.

        Raises:
            SdAssetsError: there is no such profile, or there are credentials in the endpoint.
        """
        key = os.getpid(), self
        with _making:
            if key not in _clients:
                _clients[key] = self._made()
            return _clients[key]

    def _made(self) -> Any:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        config = Config(
            # We try again ourselves, see `s3_attempts`.
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=_CONNECTIONS,
            connect_timeout=_CONNECT_S,
            read_timeout=_READ_S,
        )
        try:
            session = boto3.session.Session(profile_name=self.profile_name, region_name=self.region_name)
            client = session.client("s3", endpoint_url=self.endpoint_url, verify=self.verify, config=config)
        except (BotoCoreError, ValueError) as error:
            # What an error of the configuration quotes may hold anything: its kind has to do.
            raise SdAssetsError(
                f"cannot connect to S3 ({type(error).__name__}): look at the endpoint (`endpoint_url`, AWS_ENDPOINT_URL), the "
                "region and the profile (`profile_name`, AWS_PROFILE), and at ~/.aws"
            ) from None
        _require_public(client.meta.endpoint_url, "AWS_ENDPOINT_URL")
        return client


def _require_public(endpoint: str | None, where: str) -> None:
    """An endpoint is shown and logged: it must hold no secret."""
    parts = urlsplit(endpoint or "")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SdAssetsError(
            f"{where} must be a plain address like https://s3.example.com, without user, password, query or signature: "
            "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )
