"""Batches through a model: as large as fit, and an item that cannot be computed costs only itself."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sd_assets.errors import ErrorCode, ModelError, RowError
from sd_assets.models.devices import device_is_lost, free_memory, out_of_memory
from sd_assets.views.text import one_line

Item = TypeVar("Item")
Out = TypeVar("Out")

# For other sizes some kernels treat the last rows in another way, and a row's bytes would depend on its place.
FILL = 16


class Batches:
    """Runs a function over items, a batch after the other. May be used by several threads.

    A batch is filled up with copies of its last item, so that on a CPU all take the same path through the kernels, and a row's
    bytes do not depend on how many came with it; on a GPU the last bits may. The filling is a real item, which ends its
    caption when that does.

    Args:
        size: items a batch, at most. Halved, for good, where the device has no memory for so many.
        device: that runs out of memory.
        fill: batches are filled up to a multiple of this, or of `size` where that is smaller.
    """

    def __init__(self, size: int, device: str, fill: int = FILL) -> None:
        self.size = size
        self._device = device
        self._fill = min(fill, size)
        self._succeeded = False

    def run(
        self, items: Sequence[Item], function: Callable[[list[Item]], Sequence[Out]]
    ) -> list[Out | RowError]:
        """What `function` gives for each of the items, in order; a RowError for one that it cannot compute.

        Args:
            items: any number.
            function: of a batch, to as many results or more.

        Raises:
            ModelError: there is no memory for a single item, or none has ever worked.
        """
        results: list[Out | RowError] = []
        while len(results) < len(items):
            results += self._some(items[len(results) : len(results) + self.size], function)
        return results

    def _some(
        self, items: Sequence[Item], function: Callable[[list[Item]], Sequence[Out]]
    ) -> list[Out | RowError]:
        """Results of the first of the items, one at least."""
        failed: Exception
        try:
            results = function(self._filled(items))
        except Exception as error:
            # Outside of `except` nothing holds on to the tensors of the failed batch.
            failed = error.with_traceback(None)
        else:
            self._succeeded = True
            return list(results[: len(items)])
        if out_of_memory(failed):
            free_memory(self._device)
            # What was really tried may be less than the size, or more: a partition's last batch, a filling.
            tried = len(self._filled(items))
            if tried == 1:
                raise ModelError(
                    f"the model does not fit {self._device}: there is no memory for a single item ({one_line(failed)}); take a "
                    "smaller model, a device with more memory, or `precision: bfloat16`"
                ) from failed
            self.size = min(self.size, tried // 2)
            self._fill = min(self._fill, self.size)
            return self._some(items[: self.size], function)
        if isinstance(failed, ModelError):
            raise failed
        if device_is_lost(failed):
            raise ModelError(
                f"{self._device} gave up ({one_line(failed)}): run it again; what is finished is kept"
            ) from failed
        if len(items) == 1:
            if not self._succeeded:
                raise ModelError(f"the model fails: {one_line(failed)}") from failed
            return [RowError(ErrorCode.MODEL_FAILED, one_line(failed))]
        return self._halves(items, function, failed)

    def _halves(
        self,
        items: Sequence[Item],
        function: Callable[[list[Item]], Sequence[Out]],
        failed: Exception,
    ) -> list[Out | RowError]:
        """Each half by itself, until those that cannot be computed are alone."""
        if not self._succeeded:
            # The first batch ever: what fails may be all. Whether it does is only known when one of them has worked.
            for item in items:
                try:
                    function(self._filled([item]))
                except Exception:
                    continue
                self._succeeded = True
                break
            else:
                raise ModelError(f"the model fails: {one_line(failed)}") from failed
        middle = len(items) // 2
        return [result for half in (items[:middle], items[middle:]) for result in self.run(half, function)]

    def _filled(self, items: Sequence[Item]) -> list[Item]:
        return [*items, *[items[-1]] * (-len(items) % self._fill)]
