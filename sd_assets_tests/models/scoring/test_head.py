"""Heads as they are published, on embeddings; and what is said of files that are none."""

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

from sd_assets.errors import ModelError
from sd_assets.models.scoring.head import Head
from sd_assets.settings import ScoreModelSettings
from sd_assets_tests.hub.server import Hub

CLIP = "the CLIP toy"
DIM = 24


def improved_aesthetic_predictor() -> torch.nn.Sequential:
    """The layers of the predictor of that name, but for their widths: dropout between them, and no activation."""
    sizes = (DIM, 32, 16, 8, 4)
    layers: list[torch.nn.Module] = []
    for place, (wide, narrow) in enumerate(pairwise(sizes)):
        layers += [torch.nn.Linear(wide, narrow), *([torch.nn.Dropout(0.2)] if place < 3 else [])]
    return torch.nn.Sequential(*layers, torch.nn.Linear(4, 1)).eval()


def embeddings() -> npt.NDArray[np.float32]:
    found = np.random.default_rng(0).normal(size=(5, DIM))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def answers(module: torch.nn.Module) -> Any:
    """What torch makes of `embeddings()`."""
    with torch.inference_mode():
        return module(torch.from_numpy(embeddings()))[:, 0].numpy()


def head(path: Path | str, **settings: Any) -> Head:
    return Head(ScoreModelSettings(head=str(path), **settings), "aesthetic")


def scores(of: Head) -> Any:
    of.load()
    return of.score(embeddings(), CLIP)


def test_one_layer_as_laion_publishes_it(tmp_path: Path) -> None:
    layer = torch.nn.Linear(DIM, 1)
    torch.save(layer.state_dict(), tmp_path / "sa_0_4_vit_l_14_linear.pth")
    found = head(tmp_path / "sa_0_4_vit_l_14_linear.pth")
    assert scores(found) == pytest.approx(answers(layer), abs=1e-6)
    assert found.identity.startswith("sa_0_4_vit_l_14_linear.pth ")


def test_an_mlp_as_the_improved_predictor_is_published(tmp_path: Path) -> None:
    mlp = improved_aesthetic_predictor()
    weights = {f"layers.{name}": tensor for name, tensor in mlp.state_dict().items()}
    assert "layers.0.weight" in weights and "layers.7.weight" in weights
    torch.save(weights, tmp_path / "mlp.pth")
    save_file(weights, tmp_path / "mlp.safetensors")
    for name in ("mlp.pth", "mlp.safetensors"):
        assert scores(head(tmp_path / name)) == pytest.approx(answers(mlp), abs=1e-6)
    assert head(tmp_path / "mlp.pth").identity != head(tmp_path / "mlp.safetensors").identity


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_activations_and_a_sigmoid(tmp_path: Path, activation: str) -> None:
    kinds = {"relu": torch.nn.ReLU, "gelu": torch.nn.GELU, "silu": torch.nn.SiLU, "tanh": torch.nn.Tanh}
    module = torch.nn.Sequential(
        torch.nn.Linear(DIM, 12), kinds[activation](), torch.nn.Linear(12, 1), torch.nn.Sigmoid()
    )
    torch.save({"epoch": 3, "state_dict": module.state_dict()}, tmp_path / "head.pth")
    found = scores(head(tmp_path / "head.pth", activation=activation, sigmoid=True))
    assert found == pytest.approx(answers(module), abs=1e-6)
    assert scores(head(tmp_path / "head.pth")) != pytest.approx(found, abs=1e-3)


def test_a_score_does_not_depend_on_its_company(tmp_path: Path) -> None:
    save_file(improved_aesthetic_predictor().state_dict(), tmp_path / "head.safetensors")
    found = head(tmp_path / "head.safetensors")
    together = scores(found)
    alone = [found.score(embeddings()[place : place + 1], CLIP)[0] for place in range(5)]
    assert alone == together.tolist()


def test_layers_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    widths = [DIM, *range(13, 2, -1), 1]
    layers = [torch.nn.Linear(*pair) for pair in pairwise(widths)]
    save_file(torch.nn.Sequential(*layers).state_dict(), tmp_path / "deep.safetensors")  # 0, 1, 10, 11, 2 ...
    assert scores(head(tmp_path / "deep.safetensors")) == pytest.approx(
        answers(torch.nn.Sequential(*layers)), abs=1e-6
    )


def in_this_order(**layers: torch.nn.Module) -> torch.nn.Sequential:
    return torch.nn.Sequential(OrderedDict(layers))


def test_parameters_that_were_saved_as_they_are_trained(tmp_path: Path) -> None:
    layer = torch.nn.Linear(DIM, 1)
    torch.save(dict(layer.named_parameters()), tmp_path / "head.pth")
    assert scores(head(tmp_path / "head.pth")) == pytest.approx(answers(layer), abs=1e-6)


def test_layers_whose_names_say_no_order(tmp_path: Path) -> None:
    module = in_this_order(
        project=torch.nn.Linear(DIM, 8),
        middle=torch.nn.Linear(8, 8),
        again=torch.nn.Linear(8, 8),
        out=torch.nn.Linear(8, 1),
    )
    torch.save(module.state_dict(), tmp_path / "head.pth")
    assert scores(head(tmp_path / "head.pth")) == pytest.approx(answers(module), abs=1e-6)
    save_file(module.state_dict(), tmp_path / "head.safetensors")
    with pytest.raises(
        ModelError, match=r"the order of its layers: .*'again.weight'.* fit, and so do .*`.pth`"
    ):
        head(tmp_path / "head.safetensors").load()


def test_layers_of_which_one_order_fits(tmp_path: Path) -> None:
    module = in_this_order(
        project=torch.nn.Linear(DIM, 8),
        body2=torch.nn.Linear(8, 8),
        body10=torch.nn.Linear(8, 8),
        answer=torch.nn.Linear(8, 1),
    )
    save_file(module.state_dict(), tmp_path / "head.safetensors")
    assert scores(head(tmp_path / "head.safetensors")) == pytest.approx(answers(module), abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"weight": torch.zeros(2, DIM)}, "its last layer answers 2 numbers"),
        ({"0.weight": torch.zeros(8, DIM), "1.weight": torch.zeros(1, 9)}, "'0.weight' answers 8 numbers"),
        ({"weight": torch.zeros(DIM), "bias": torch.zeros(DIM)}, "no linear layer"),
        ({"0.weight": torch.zeros(1, DIM), "1.running_mean": torch.zeros(1)}, "'1.running_mean'"),
        ({}, "holds nothing"),
        ([1, 2], "no weights by name"),
    ],
)
def test_what_is_no_head(tmp_path: Path, weights: Any, said: str) -> None:
    torch.save(weights, tmp_path / "head.pth")
    with pytest.raises(ModelError, match=rf"head.pth' \(scores.aesthetic\).*{said}"):
        head(tmp_path / "head.pth").load()


def test_code_is_not_run(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(DIM, 1), tmp_path / "head.pth")
    with pytest.raises(ModelError, match=r"a whole module, which holds code, is not read"):
        head(tmp_path / "head.pth").load()


def test_files_that_cannot_be_had(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"No such file or directory.*: give the file"):
        _ = head(tmp_path / "none.pth").identity
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ModelError, match="cannot be read"):
        head(tmp_path / "text.safetensors").load()
    with pytest.raises(ModelError, match="does not exist on the Hub"):
        _ = head("hf-hub:org/none/head.pth").identity


def test_of_another_clip(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1, 768)}, tmp_path / "head.safetensors")
    found = head(tmp_path / "head.safetensors")
    found.load()
    with pytest.raises(
        ModelError, match="embeddings of 768 numbers, and those of the CLIP toy have 24: take"
    ):
        found.score(embeddings(), CLIP)


def test_of_the_hub(tmp_path: Path, hub: Hub) -> None:
    layer = torch.nn.Linear(DIM, 1)
    save_file(layer.state_dict(), tmp_path / "head.safetensors")
    repo = hub.model(
        "org/heads", {"vit/head.safetensors": (tmp_path / "head.safetensors").read_bytes(), "README.md": b"#"}
    )
    found = head("hf-hub:org/heads/vit/head.safetensors")
    assert found.identity == f"hf-hub:org/heads@{repo.refs['main']}/vit/head.safetensors"
    assert scores(found) == pytest.approx(answers(layer), abs=1e-6)
    with pytest.raises(ModelError, match=r"has no other\.safetensors"):
        head("hf-hub:org/heads/other.safetensors").load()
    hub.model("org/gated", {"head.safetensors": b""}, gated=True)
    with pytest.raises(
        ModelError, match=r"head.safetensors' \(scores.aesthetic\) is gated: accept its terms"
    ):
        _ = head("hf-hub:org/gated/head.safetensors").identity
    with pytest.raises(ModelError, match="has no revision 'v9'"):
        _ = head("hf-hub:org/heads/vit/head.safetensors", revision="v9").identity
