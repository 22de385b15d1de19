"""The cluster: being connected to it, and how many workers fit."""

import os
import signal
import socket
import threading
from dataclasses import dataclass

from sd_assets.errors import SdAssetsError

ADDRESS_VARIABLE = "RAY_ADDRESS"
# So long the head of a cluster may take to accept a connection.
_CONNECT_S = 10.0


@dataclass(frozen=True)
class RaySettings:
    """How a cluster is used.

    Attributes:
        address: of the cluster: `auto` (the one that this machine belongs to), or `host:port` of its head. Empty: what
            `RAY_ADDRESS` says, or `auto`.
        workers: so many; None: one for each GPU of the cluster where the stage uses a device and there is a GPU, or else as
            many as `cpus_per_worker` allows.
        cpus_per_worker: cores that a worker has.
        start_timeout_s: seconds without any worker after which a run gives up; a cluster that grows on demand takes minutes.
    """

    address: str = ""
    workers: int | None = None
    cpus_per_worker: int = 1
    start_timeout_s: float = 600.0


@dataclass(frozen=True)
class Share:
    """What each worker has, and how many of them there are."""

    workers: int
    cpus: int
    gpus: int


class Cluster:
    """A connection to a cluster, for as long as it is not closed.

    If this process is connected already (its asset has a Ray resource of its own, or the run is a job of the cluster), that
    connection is used, and left open.

    Raises:
        SdAssetsError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, settings: RaySettings) -> None:
        try:
            import ray
        except ImportError as error:
            raise SdAssetsError(
                "`compute: ray` needs Ray: install the extra, `pip install 'sd_assets[ray]'`, here and on the cluster"
            ) from error
        self._settings = settings
        self._ours = not ray.is_initialized()
        if self._ours:
            address = settings.address or os.environ.get(ADDRESS_VARIABLE) or "auto"
            try:
                _require_somebody_at(address)
                handler = signal.getsignal(signal.SIGTERM)
                ray.init(address=address, namespace="sd_assets", log_to_driver=False, configure_logging=False)
                if threading.current_thread() is threading.main_thread():
                    signal.signal(
                        signal.SIGTERM, handler
                    )  # Ray puts its own there; Dagster's ends a run in order
            except (OSError, ValueError, RuntimeError) as error:
                raise SdAssetsError(
                    f"there is no Ray cluster at {address!r} ({error}): start one (`ray start --head`), or name its head in "
                    f"{ADDRESS_VARIABLE}, as `host:6379`"
                ) from error

    def share(self, *, uses_device: bool) -> Share:
        """What the workers of a stage have.

        Raises:
            SdAssetsError: no node has what a worker is to have.
        """
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        all_cpus, all_gpus = ([int(node.get(what, 0)) for node in nodes] for what in ("CPU", "GPU"))
        cpus = self._settings.cpus_per_worker
        gpus = sum(all_gpus) if uses_device else 0
        fit = gpus or sum(of_node // cpus for of_node in all_cpus)
        if not (self._settings.workers or fit):
            raise SdAssetsError(
                f"a worker is to have {cpus} cores (`cpus_per_worker`), and no node of the cluster has so many: "
                f"they have {all_cpus}"
            )
        return Share(self._settings.workers or fit, cpus, 1 if gpus else 0)

    def close(self) -> None:
        """Let go of the cluster, if the connection is ours."""
        import ray

        if self._ours:
            ray.shutdown()


def _require_somebody_at(address: str) -> None:
    """Ray waits for minutes. Raises OSError if nobody listens there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
