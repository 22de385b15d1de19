"""Our definitions on Kubernetes: each step is a pod of its own, and those that load a model ask for GPUs.

The code server loads this file (`code-server.yaml`). Definitions of your own (docs/own_stage.md) take the executor the same way.
"""

import os
from collections.abc import Iterable
from typing import Any, Final

import dagster as dg
from dagster_k8s import k8s_job_executor

from sd_assets.assets.common import GPU_POOL
from sd_assets.definitions import ASSETS, build_definitions

# GPUs of a step that loads a model: 0 where there are none, or where Ray's workers have them (SD_ASSETS_COMPUTE=ray).
GPUS_VARIABLE: Final = "SD_ASSETS_STEP_GPUS"

# Of steps, which start nothing: it has no rights in the cluster (access.yaml).
ACCOUNT: Final = "sd-assets-work"
# Of every step's pod; that of the run, which only starts steps, is as `run_k8s_config` of dagster.yaml says.
STEP: Final[dict[str, Any]] = {
    "container_config": {
        "resources": {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "16Gi"}}
    },
    "pod_spec_config": {"automount_service_account_token": False},
}


def gpu_steps(assets: Iterable[dg.AssetsDefinition], gpus: int) -> dict[str, dict[str, Any]]:
    """What the steps of the assets in the pool `gpu` ask for beside `STEP`, by the name of the step."""
    if not gpus:
        return {}
    asked = {
        "container_config": {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}},
        # Nodes with GPUs are often kept from other pods by this taint.
        "pod_spec_config": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        },
    }
    return {asset.op.name: asked for asset in assets if asset.op.pool == GPU_POOL}


EXECUTOR: Final = k8s_job_executor.configured(
    {
        "service_account_name": ACCOUNT,
        "step_k8s_config": STEP,
        "per_step_k8s_config": gpu_steps(ASSETS, int(os.environ.get(GPUS_VARIABLE, "1"))),
    }
)

defs = build_definitions(executor=EXECUTOR)
