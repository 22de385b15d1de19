"""How clients find the local Hub: by variables that they read once, when they are imported."""

import os
from pathlib import Path

# Of the Hub's clients; what a developer has set there is not for tests.
_PREFIXES = ("HF_", "HUGGING", "TRANSFORMERS_")


def point_clients_at(url: str, home: Path) -> None:
    """Every client of this process, and of those it starts, asks this Hub and keeps its files and tokens in `home`.

    To be called before anything imports `huggingface_hub`.
    """
    for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
        del os.environ[name]
    os.environ["HF_ENDPOINT"] = url
    os.environ["HF_HOME"] = str(home)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_XET"] = "1"  # large files are uploaded by LFS, which the local Hub speaks
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))
