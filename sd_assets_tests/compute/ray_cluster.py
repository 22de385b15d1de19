"""A real Ray cluster of two nodes on this machine, for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sd_assets.compute.ray.cluster import RaySettings
from sd_assets.compute.ray.engine import RayEngine

_TOP = Path(__file__).parents[2]


class TwoNodes:
    """A head and another node, each with a core.

    Attributes:
        settings: to use it with.
    """

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 1024 * 1024}
        self._cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        self._node = node
        self._other = self._cluster.add_node(**node)
        self._cluster.wait_for_nodes()
        self.settings = RaySettings(address=self._cluster.address)

    def engine(self) -> RayEngine:
        return RayEngine(self.settings)

    def kill_other(self) -> None:
        """The node that is not the head dies, with all that runs there."""
        self._cluster.remove_node(self._other, allow_graceful=False)

    def replace_other(self) -> None:
        """Another node takes its place."""
        self._other = self._cluster.add_node(**self._node)
        self._cluster.wait_for_nodes()

    def shutdown(self) -> None:
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """A cluster whose workers find these tests."""
    kept: dict[str, Any] = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_ADDRESS")}
    os.environ["PYTHONPATH"] = str(_TOP)
    os.environ.pop("RAY_ADDRESS", None)
    cluster = TwoNodes()
    try:
        yield cluster
    finally:
        cluster.shutdown()
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
