"""Devices, precisions and sizes of batches; those of GPUs with what torch would say of them."""

from typing import Any

import pytest
import torch

from sd_assets.errors import ModelError
from sd_assets.models import devices


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_every_gpu_is_used(gpus: None) -> None:
    assert devices.pick_devices("auto") == ["cuda:0", "cuda:1"]
    assert devices.pick_devices("cuda") == ["cuda:0", "cuda:1"]
    assert devices.pick_devices("cuda:1") == ["cuda:1"]
    assert devices.pick_devices("cpu") == ["cpu"]


def test_a_gpu_that_is_not_there(gpus: None) -> None:
    with pytest.raises(ModelError, match=r"device 'cuda:2' was asked for.*one of these: cuda:0, cuda:1, cpu"):
        devices.pick_devices("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cpu:0", "cuda:x", "", "mps:1"])
def test_a_device_that_nobody_knows(name: str) -> None:
    with pytest.raises(ModelError, match="is unknown; there are: auto, cpu, cuda, cuda:N, mps"):
        devices.pick_devices(name)


@pytest.mark.parametrize(
    ("known", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_a_cpu_computes_in_what_it_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert devices.pick_precision("cpu", "auto") == precision
    assert devices.pick_precision("cpu", "float16") == "float16"


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "float16"), ((8, 0), "bfloat16")])
def test_so_does_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.pick_precision("cuda:0", "auto") == precision


@pytest.mark.parametrize(("gib", "size"), [(80, 512), (141, 512), (40, 256), (24, 144), (2, 16), (0.5, 16)])
def test_batches_are_in_proportion_to_a_gpu_s_memory(gib: float, size: int) -> None:
    assert devices.scaled_to(int(gib * 2**30), 512) == size


def test_a_cpu_s_batches_are_as_large_as_is_said() -> None:
    assert devices.pick_batch_size("cpu", on_cpu=32, on_80_gib=512) == 32


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 5 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_has_ended(error: Any, memory: bool) -> None:
    assert devices.out_of_memory(error) is memory
