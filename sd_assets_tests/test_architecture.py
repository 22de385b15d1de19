"""Who may know whom: the rules of the layout, as tests."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sd_assets

ROOT = Path(sd_assets.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
DAGSTER = {"definitions.py", "assets", "checks", "automation", "resources"}
HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "open_clip",
    "faiss",
    "ray",
    "datasets",
    "pandas",
    "boto3",
    "dagster_aws",
}
# Packages that build on classes of these libraries, and are imported when a model is loaded, never before.
LATE = {"sd_assets.models.captioning": {"torch", "transformers"}}


def imported(path: Path, *, lazily: bool) -> Iterator[str]:
    """Top-level packages that a module imports; those inside functions or for type checking too, if `lazily`."""
    todo: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        if not lazily and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        todo.extend([] if for_types and not lazily else ast.iter_child_nodes(node))


def is_in(path: Path, package: str) -> bool:
    return ROOT.parent.joinpath(*package.split(".")) in path.parents


@pytest.mark.parametrize("package", LATE)
def test_late_packages_are_imported_late(package: str) -> None:
    outside = [path for path in MODULES if not is_in(path, package)]
    early = [
        path for path in outside if any(name.startswith(package) for name in imported(path, lazily=False))
    ]
    assert outside and not early


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0]
    eager = {name.partition(".")[0] for name in imported(path, lazily=False)}
    everything = {name.partition(".")[0] for name in imported(path, lazily=True)}
    assert not eager & HEAVY - set().union(*(may for package, may in LATE.items() if is_in(path, package)))
    if part in DAGSTER:
        # dagster_aws is what the storage resource asks for a client.
        assert not everything & (HEAVY - {"pandas", "dagster_aws"} | {"aiohttp"})
    else:
        assert "dagster" not in everything


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py"], ids=lambda path: path.parent.name
)
def test_packages_say_what_belongs_there(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert len(doc) > 80


def test_imports_in_try_and_class_bodies_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "try:\n    import torch\nexcept ImportError:\n    pass\nclass A:\n    import faiss\n    def f(self):\n        import ray\n"
    )
    assert set(imported(path, lazily=False)) == {"torch", "faiss"}
    assert set(imported(path, lazily=True)) == {"torch", "faiss", "ray"}


def test_loading_and_validating_the_definitions_imports_nothing_heavy() -> None:
    code = (
        "import sys, dagster; from sd_assets.definitions import defs; dagster.Definitions.validate_loadable(defs); "
        f"print(sorted({HEAVY | {'aiohttp', 'botocore'}!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nobody_imports_the_demo() -> None:
    for path in MODULES:
        if path.relative_to(ROOT).parts[0] != "demo":
            assert not [name for name in imported(path, lazily=True) if name.startswith("sd_assets.demo")], (
                path
            )
