"""What systemd does with sd-assets@.service, as far as it says: starts a process, and starts it again when it ends."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from configparser import RawConfigParser, SectionProxy
from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "deploy" / "processes"
# Where the unit expects the project.
_INSTALLED = "/opt/sd_assets"
# Systemd's TimeoutStopSec, as the unit says nothing else.
_STOP_S = 90


def unit() -> SectionProxy:
    """What the unit says of its service."""
    parser = RawConfigParser(strict=False)
    parser.read(FOLDER / "sd-assets@.service")
    return parser["Service"]


class Service:
    """An instance of the unit, such as `sd-assets@daemon`, that runs until it is stopped.

    Attributes:
        name: what `%i` is: the process that is run.
        pids: of the processes that were started, one after the other.
        log: what they said.
    """

    def __init__(self, name: str, environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.pids: list[int] = []
        self.log = folder / f"{name}.log"
        service = unit()
        self._command = service["ExecStart"].replace(_INSTALLED, str(PROJECT)).replace("%i", name)
        self._is_restarted = service["Restart"] == "always"
        self._pause_s = float(service["RestartSec"])
        # Signals go to the main process only, and what else it started lives on.
        assert service["KillMode"] == "process"
        self._environment = {**os.environ, **environment}
        self._stopped = threading.Event()
        self._process = self._started()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """As the kernel does for want of memory: nothing is told, nothing is tidied up."""
        self._process.kill()

    def stop(self) -> int:
        """As `systemctl stop` does; the exit status."""
        self._stopped.set()
        self._process.send_signal(signal.SIGTERM)
        self._thread.join(_STOP_S)
        return self._process.wait(1)

    def sweep(self) -> None:
        """End all that was ever started here and still runs."""
        self._stopped.set()
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self._thread.join(40)

    def _started(self) -> "subprocess.Popen[bytes]":
        with self.log.open("a") as log:
            process = subprocess.Popen(
                self._command.split(),
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pids.append(process.pid)
        return process

    def _supervise(self) -> None:
        while True:
            self._process.wait()
            if self._stopped.is_set() or not self._is_restarted:
                return
            time.sleep(self._pause_s)
            self._process = self._started()
