"""Train the embedded world's CLIP and BLIP, and measure them: `python -m sd_assets.demo.train [clip|blip|all|evaluate]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sd_assets.demo.training import loop

MODELS = Path(__file__).parent / "models"
"""Where the trained models are: the folders `clip` and `blip`."""

MEASURED = "measured.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m sd_assets.demo.train", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("clip", "blip", "all", "evaluate"), default="all")
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="training time of each model (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=MODELS, help="folder of the folders clip and blip")
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument(
        "--scenes", type=int, default=80_000, help="training scenes to render (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the training data (default: %(default)s)"
    )
    parser.add_argument("--evaluation-seed", default="measured", help="seed of the scenes measured on")
    options = parser.parse_args(arguments)

    if options.what == "evaluate":
        for name in ("clip", "blip"):
            if (options.out / name).is_dir():
                measure(name, options.out, options.evaluation_seed)
        return
    for name in ("clip", "blip") if options.what == "all" else (options.what,):
        training = train(name, options)
        measure(name, options.out, options.evaluation_seed, training)


def train(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one model into its folder; returns what was done, and on what kind of machine."""
    import torch

    from sd_assets.demo.training.blip import train_blip
    from sd_assets.demo.training.clip import train_clip
    from sd_assets.demo.training.data import render_pool

    device: str = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    loop.log(f"rendering {options.scenes} training scenes")
    # The BLIP learns from other scenes than the CLIP that it starts from.
    pool = render_pool(options.scenes, seed=options.seed + (name == "blip"))
    if name == "clip":
        done = train_clip(
            pool, options.out / "clip", minutes=options.minutes, device=device, seed=options.seed
        )
    else:
        done = train_blip(
            pool,
            options.out / "clip",
            options.out / "blip",
            minutes=options.minutes,
            device=device,
            seed=options.seed,
        )
    machine = {
        "device": device,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "torch": torch.__version__,
    }
    return {**done, **machine}


def measure(name: str, out: Path, seed: str, training: dict[str, Any] | None = None) -> None:
    """Measure one model and write its figures beside it, keeping what was written of its training unless that is given."""
    from sd_assets.demo.training.evaluate import measure_blip, measure_clip

    folder = out / name
    file = folder / MEASURED
    if training is None and file.exists():
        training = json.loads(file.read_text(encoding="utf-8")).get("training")
    figures = measure_clip(folder, seed=seed) if name == "clip" else measure_blip(folder, seed=seed)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.name != MEASURED)
    report = {"training": training, "evaluation_seed": seed, "figures": figures, "bytes": size}
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    loop.log(f"{name}: {json.dumps(figures)}")


if __name__ == "__main__":
    main()
