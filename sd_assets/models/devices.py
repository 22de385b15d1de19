"""Where a model runs, in which precision, and how much of it fits there."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sd_assets.errors import ModelError

PRECISIONS = ("float32", "float16", "bfloat16")
# What torch calls them: CPUs that multiply matrices of bfloat16 about twice as quickly as those of float32, or more.
_BFLOAT16_CPUS = ("avx512_bf16", "amx_bf16", "bf16")
_GIB = 2**30


def pick_devices(asked: str) -> list[str]:
    """The devices that are used: all GPUs for `auto` and `cuda`, one for any other.

    Raises:
        ModelError: this machine has no such device.
    """
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    mps = torch.backends.mps.is_available()
    if asked == "auto":
        return gpus or (["mps"] if mps else ["cpu"])
    kind, _, number = asked.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise ModelError(f"device {asked!r} is unknown; there are: auto, cpu, cuda, cuda:N, mps")
    there = {"cpu": True, "mps": mps, "cuda": asked in gpus if number else bool(gpus)}
    if not there[kind]:
        found = ", ".join([*gpus, *(["mps"] if mps else []), "cpu"])
        raise ModelError(
            f"device {asked!r} was asked for, but torch finds none here: use `auto`, or one of these: {found}"
        )
    return gpus if asked == "cuda" else [asked]


def pick_precision(device: str, asked: str) -> str:
    """`asked`, or for `auto` half precision where the device is faster in it: else float32.

    On cuda that is bfloat16 where the hardware has it (compute capability 8 and up), else float16; on a CPU bfloat16 where
    it has instructions for it (AVX512-BF16, AMX).
    """
    if asked != "auto":
        return asked
    import torch

    if device == "cpu":
        # Older versions of torch do not tell.
        known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return "bfloat16" if any(known.get(name) for name in _BFLOAT16_CPUS) else "float32"
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    return "float32"


def pick_batch_size(device: str, *, on_cpu: int, on_80_gib: int) -> int:
    """Items a batch: on a GPU in proportion to its memory, a multiple of 16.

    Too many are found out when they are tried (`running.Batches`); too few only cost speed.

    Args:
        device: that it is for.
        on_cpu: there, and wherever memory is shared with all else.
        on_80_gib: on a GPU of so much memory.
    """
    if not device.startswith("cuda"):
        return on_cpu
    import torch

    memory = torch.cuda.get_device_properties(device).total_memory
    return scaled_to(memory, on_80_gib)


def scaled_to(memory: int, on_80_gib: int) -> int:
    """Items a batch for `memory` bytes."""
    share = min(1.0, memory / (80 * _GIB))
    return max(16, int(on_80_gib * share) // 16 * 16)


def on_device(array: npt.NDArray[np.generic], device: str) -> Any:
    """An array as a tensor on the device. A GPU copies it while this thread goes on."""
    import torch

    tensor = torch.from_numpy(array)
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device, or the machine, has no memory left."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # On a CPU and on mps it is only said in words.
    said = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in said or "out of memory" in said.lower() or "ALLOC_FAILED" in said
    )


def device_is_lost(error: BaseException) -> bool:
    """Whether nothing works any more on the device before the process ends: an error of CUDA stays."""
    import torch

    lost = getattr(torch, "AcceleratorError", None)
    return lost is not None and isinstance(error, lost) and not out_of_memory(error)


def free_memory(device: str) -> None:
    """Gives back what torch keeps for later, so that a smaller batch finds it."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()
