"""Kubernetes manifests and the schemas that they must fit, which lie in `schemas/`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
_SCHEMAS = Path(__file__).parent / "schemas"
_DEFINITIONS: dict[str, Any] = json.loads((_SCHEMAS / "kubernetes.json").read_text())
_KINDS = {
    **{
        (api, kind): {"$ref": f"#/$defs/io.k8s.api.{package}.v1.{kind}"}
        for api, package, kinds in (
            ("v1", "core", ["Service", "ServiceAccount"]),
            ("apps/v1", "apps", ["Deployment"]),
            ("batch/v1", "batch", ["Job"]),
            ("networking.k8s.io/v1", "networking", ["NetworkPolicy"]),
            ("rbac.authorization.k8s.io/v1", "rbac", ["Role", "RoleBinding"]),
        )
        for kind in kinds
    },
    ("ray.io/v1", "RayCluster"): json.loads((_SCHEMAS / "raycluster.json").read_text()),
}


def manifests(path: Path) -> list[dict[str, Any]]:
    """The objects that a file describes."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def faults(manifest: dict[str, Any]) -> list[str]:
    """What Kubernetes would refuse of an object, each with the place; also what it would silently drop."""
    schema = _KINDS.get((manifest.get("apiVersion", ""), manifest.get("kind", "")))
    if schema is None:
        return [f"there is no {manifest.get('apiVersion')} {manifest.get('kind')}"]
    validator = Draft202012Validator({**schema, "$defs": _DEFINITIONS})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The specs of the pods that an object brings about, however deep they are in it."""
    for key, value in manifest.items():
        if key == "template":
            yield value["spec"]
        elif isinstance(value, dict):
            yield from pods(value)
        elif isinstance(value, list):
            for item in value:
                yield from pods(item) if isinstance(item, dict) else ()
