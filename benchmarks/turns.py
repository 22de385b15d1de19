"""Processes that are measured in turns: each loads its model once, and then works whenever it is asked.

So a machine that is busy for a while slows down all that is compared, and nobody's loading is counted. A `Contender` is asked
in JSON, a line a question, and answers with a line; in its process `serve` does that. This module loads the standard library
only, and is used by other environments, too.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = Path(__file__).parents[1]
_TOLD = 4_000  # characters of what a failed process said
_PATIENCE_S = 10

Answer = dict[str, Any]


class ContenderError(RuntimeError):
    """A contender could not do what it was asked; in its own words."""


class Contender:
    """A process that measures when it is asked. A context manager: it ends there.

    Args:
        module: of `benchmarks`, which calls `serve`.
        arguments: of its command line.
        python: that runs it.
        environment: variables that it has besides ours.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        python: Path | str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = module
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until `end`
        self._process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.{module}", *map(str, arguments)],
            cwd=PROJECT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def __enter__(self) -> "Contender":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(_PATIENCE_S if error is None else 0)

    def ask(self, limit_s: float | None = None, **question: Any) -> Answer:
        """What it measured.

        Args:
            limit_s: seconds after which it is ended, with what it started.
            question: what it is to do, as JSON.

        Raises:
            ContenderError: it could not, or not in time.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, as is told below
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], limit_s)[0]:
            self.end()
            raise ContenderError(f"benchmarks.{self.name} did not do {question} in {limit_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            raise ContenderError(f"benchmarks.{self.name} ended at {question}:\n{self._said.read()[-_TOLD:]}")
        answer: Answer = json.loads(line)
        if "failed" in answer:
            raise ContenderError(f"benchmarks.{self.name} failed at {question}:\n{answer['failed'][-_TOLD:]}")
        return answer

    def end(self, patience_s: float = 0) -> None:
        """Ends the process, at once or when it is done with what it does."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # after which it has no questions
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._said.close()


def serve(measure: Callable[..., Answer]) -> None:
    """Answer questions until there are none: `measure` with what is asked as keyword arguments."""
    # What libraries print goes where errors go: standard output is for answers.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            try:
                answer = measure(**json.loads(line))
            except Exception:
                answer = {"failed": traceback.format_exc()}
            answers.write(json.dumps(answer) + "\n")
