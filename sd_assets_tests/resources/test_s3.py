"""S3 as a resource: how it is reached is configured, what it is reached with is not, and is never shown."""

import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest

from sd_assets.errors import SdAssetsError
from sd_assets.resources.storage import S3Config, StorageResource
from sd_assets.storage.files import S3Connection, S3Files
from sd_assets_tests.readme import blocks, section
from sd_assets_tests.s3 import CREDENTIALS, S3Server
from sd_assets_tests.s3_faults import Answer, FaultProxy, always

pytestmark = pytest.mark.s3

SECRETS = {
    "AWS_ACCESS_KEY_ID": "KEYTHATNOBODYMAYSEE",
    "AWS_SECRET_ACCESS_KEY": "secret/that+nobody/may+see",
    "AWS_SESSION_TOKEN": "token/that+nobody/may+see==",
}


def test_files_travel_to_another_process_without_client_and_credentials(s3: S3Server) -> None:
    files = s3.files("s3://data/travels")
    files.put("a", b"content")
    pickled = pickle.dumps(files)
    assert not [secret for secret in CREDENTIALS.values() if len(secret) > 8 and secret.encode() in pickled]
    code = f"import pickle, sys; files = pickle.loads({pickled!r}); print('boto3' in sys.modules, files.get('a'), files.uri)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "b'content'", "s3://data/travels"]


def test_threads_share_one_client(s3: S3Server) -> None:
    connection = replace(s3.connection, max_attempts=7)
    with ThreadPoolExecutor(8) as pool:
        clients = set(pool.map(lambda _: connection.client(), range(32)))
    assert len(clients) == 1 and clients != {s3.connection.client()}


def test_the_configuration_reaches_the_client(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_S3", str(s3.connection.endpoint_url))
    seen = []

    @dg.asset
    def asset(storage: StorageResource) -> None:
        files = storage.files()
        files.put("a", b"1")
        assert isinstance(files, S3Files)
        seen.append((files._client.meta.region_name, files._connection.max_attempts))

    s3_config = S3Config(endpoint_url=dg.EnvVar("OUR_S3"), region_name="eu-west-3", max_attempts=4)
    dg.materialize([asset], resources={"storage": StorageResource(base="s3://data/configured", s3=s3_config)})
    assert s3.files("s3://data/configured").get("a") == b"1"
    assert seen == [("eu-west-3", 4)]


def test_without_a_configuration_it_is_that_of_boto3(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3.connection.endpoint_url))
    s3.files("s3://data/environment").put("a", b"1")
    # Not yet asked for in this process: a client keeps what it found.
    files = StorageResource(base="s3://data/environment", s3=S3Config(max_attempts=6)).files()
    assert files.get("a") == b"1"


@pytest.mark.parametrize("name", ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"])
def test_credentials_are_no_configuration(name: str) -> None:
    given: dict[str, Any] = {name: "hush-hush"}
    for make in (lambda: S3Config(**given), lambda: StorageResource(s3=cast(S3Config, given))):
        with pytest.raises(SdAssetsError, match=f"has no {name}.*from the environment") as caught:
            make()
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://key:hush-hush@s3.example.com",
        "https://s3.example.com/?X-Amz-Signature=hush-hush",
        "http://hush-hush@a",
    ],
)
def test_an_endpoint_with_credentials_is_refused_and_not_shown(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SdAssetsError, match="endpoint_url must be a plain address") as caught:
        S3Connection(endpoint_url=endpoint)
    assert "hush" not in str(caught.value)
    with pytest.raises(SdAssetsError, match="endpoint_url must be a plain address"):
        StorageResource(base="s3://data/x", s3=S3Config(endpoint_url=endpoint)).files()
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(SdAssetsError, match="AWS_ENDPOINT_URL must be a plain address") as caught:
        S3Files(S3Connection(region_name="us-east-1", max_attempts=2), "s3://data/x").get("a")
    assert "hush" not in str(caught.value)


def test_no_event_log_or_output_shows_a_secret(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    echoed = " ".join(f"you sent {name}={value} {value}" for name, value in SECRETS.items())
    answers = [
        Answer(403, "AccessDenied", echoed),
        Answer(400, "ExpiredToken", echoed),
        Answer(400, "Peculiar", echoed),
        Answer(500, "InternalError", echoed),
        None,
    ]

    @dg.asset
    def write(storage: StorageResource) -> None:
        storage.store().area("toy", "p").put_note("a", b"1")

    @dg.asset
    def read(storage: StorageResource) -> None:
        storage.store().area("toy", "p").latest()

    shown = []
    with dg.DagsterInstance.ephemeral() as instance:
        for number, answer in enumerate(answers):
            if answer is None:
                # A stray line break makes boto3 fail with the whole header in its error.
                monkeypatch.setenv("AWS_SESSION_TOKEN", f"{SECRETS['AWS_SESSION_TOKEN']}\nx")
            proxy.plan = always(answer)
            s3_config = S3Config(endpoint_url=proxy.connection.endpoint_url, max_attempts=2 + number)
            for asset in (write, read):
                result = dg.materialize(
                    [asset],
                    instance=instance,
                    resources={"storage": StorageResource(base="s3://data/secret", s3=s3_config)},
                    raise_on_error=False,
                )
                (failure,) = result.get_step_failure_events()
                error = failure.step_failure_data.error
                assert error is not None
                assert (
                    f"cannot {asset.key.to_user_string()} s3://data/secret/_sd_assets/toy/p/"
                    in error.to_string()
                )
                shown += [dg.serialize_value(entry) for entry in instance.all_logs(result.run_id)]
    out, err = capfd.readouterr()
    everything = "\n".join([*shown, out, err])
    assert len(shown) > 50 and "access is denied" in everything and "HTTPClientError" in everything
    for value in (*SECRETS.values(), "nobody/may", "NOBODYMAYSEE"):
        assert value not in everything


def test_compute_logs_lie_in_a_bucket(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/s3.md configures them: what a step printed is shown on a machine that has never seen it."""
    (config,) = blocks(section("Compute logs in a bucket"), "yaml")
    monkeypatch.setenv("SD_ASSETS_LOG_BUCKET", "data")
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3.connection.endpoint_url))

    @dg.asset
    def speaks() -> None:
        print("spoken by the step")

    (tmp_path / "dagster.yaml").write_text(f"{config}\n    local_dir: {tmp_path / 'logs'}\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        result = dg.materialize([speaks], instance=instance)
        (captured,) = (event for event in result.all_events if event.event_type_value == "LOGS_CAPTURED")
        shutil.rmtree(tmp_path / "logs")
        key = [result.run_id, "compute_logs", str(captured.logs_captured_data.file_key)]
        log = instance.compute_log_manager.get_log_data(key)
    assert log.stdout is not None and b"spoken by the step" in log.stdout
    assert s3.files("s3://data/dagster-logs/storage").names("/".join(key[:2]))
