"""CLIPs that transformers reads, tiny and untrained, through the encoder: against the library's own way."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from sd_assets.errors import ModelError
from sd_assets.models.clip import ClipEncoder
from sd_assets.models.preprocessing import OfLibrary, Recipe
from sd_assets.models.transformers_clip import Patches, preprocessing_of
from sd_assets.settings import ClipSettings
from sd_assets_tests.models import tiny, tiny_clip

TEXTS = ["a red sofa", "a dog in the kitchen", "", "a lamp on a table " * 100]
FAMILIES = list(tiny_clip.FAMILIES)
DIMS = {"clip": 24, "siglip": 32, "siglip2": 32, "chinese_clip": 24}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("clips")
    return {name: make(root / name) for name, make in tiny_clip.FAMILIES.items()}


def encoder(folder: Path, **options: Any) -> ClipEncoder:
    return ClipEncoder(ClipSettings(model=str(folder)), **{"precision": "float32", **options})


def photographs() -> list[Image.Image]:
    return [
        Image.fromarray(getattr(skimage.data, name)()).resize(size)
        for name, size in (("astronaut", (512, 512)), ("chelsea", (300, 451)), ("coffee", (640, 427)))
    ]


def features(answer: Any) -> npt.NDArray[np.float32]:
    """Unit vectors of what transformers answers, by version a tensor or an output with several fields."""
    vectors: npt.NDArray[np.float32] = getattr(answer, "pooler_output", answer).numpy()
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_images_have_the_vectors_that_transformers_makes(folders: dict[str, Path], family: str) -> None:
    ours = encoder(folders[family])
    model = transformers.AutoModel.from_pretrained(folders[family]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders[family])
    images = photographs()
    with torch.inference_mode():
        expected = features(model.get_image_features(**processor(images=images, return_tensors="pt")))
    made = ours.encode_images([ours.preprocess(image) for image in images])
    assert made.dtype == np.float32 and made.shape == (3, ours.dim) == (3, DIMS[family])
    assert (made * expected).sum(axis=1).min() > 0.9999
    assert np.tril(expected @ expected.T, -1).max() < 0.999  # which those of other pictures are not
    seen = ours._loaded().clip.preprocessing.batch([ours.preprocess(image) for image in images], "cpu")
    seen = seen["pixel_values"] if isinstance(seen, dict) else seen
    for image, one in zip(images, seen.flatten(1), strict=True):
        theirs = processor(images=image, return_tensors="pt")["pixel_values"].flatten()
        assert torch.cosine_similarity(one, theirs, dim=0) > 0.999


@pytest.mark.parametrize("family", FAMILIES)
def test_encoded_images_have_the_same_vectors(folders: dict[str, Path], family: str) -> None:
    ours = encoder(folders[family])
    for image in photographs():
        out = io.BytesIO()
        image.save(out, "JPEG", quality=90)
        decoded = Image.open(out)
        quick, slow = ours.encode_images([ours.pixels(out.getvalue()), ours.preprocess(decoded)])
        assert quick @ slow > 0.999


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_have_the_vectors_that_transformers_makes(folders: dict[str, Path], family: str) -> None:
    ours = encoder(folders[family])
    model = transformers.AutoModel.from_pretrained(folders[family]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[family])
    length = model.config.text_config.max_position_embeddings
    # SigLIP is trained with the padding; the others mask it, so that how much there is does not count.
    padding = "max_length" if family.startswith("siglip") else "longest"
    made = ours.encode_texts(TEXTS)
    for text, vector in zip(TEXTS, made, strict=True):
        tokens = tokenizer([text], padding=padding, truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            expected = features(model.get_text_features(**tokens))[0]
        assert vector @ expected > 0.9999
    # The end is kept where a text is cut: what comes after the cut does not count, whatever it is.
    assert np.array_equal(ours.encode_texts([TEXTS[-1] + " cat"])[0], made[-1])
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_a_row_has_the_same_bytes_in_every_batch(
    folders: dict[str, Path], family: str, pictures: list[Image.Image]
) -> None:
    ours = encoder(folders[family])
    pixels = [ours.preprocess(picture) for picture in pictures]
    together = ours.encode_images(pixels)
    assert np.array_equal(np.concatenate([ours.encode_images([one]) for one in pixels]), together)
    texts = ours.encode_texts(TEXTS)
    assert np.array_equal(np.concatenate([ours.encode_texts([text]) for text in TEXTS]), texts)


def test_in_half_precision_vectors_are_nearly_the_same(
    folders: dict[str, Path], pictures: list[Image.Image]
) -> None:
    half, full = encoder(folders["clip"], precision="bfloat16"), encoder(folders["clip"])
    pixels = [full.preprocess(picture) for picture in pictures]
    a, b = half.encode_images(pixels), full.encode_images(pixels)
    assert half.precision == "bfloat16" and a.dtype == np.float32
    assert (a * b).sum(axis=1).min() > 0.999


def test_name_and_size_are_known_without_torch(folders: dict[str, Path]) -> None:
    code = """if True:
        import sys
        from sd_assets.settings import ClipSettings
        from sd_assets.models.clip import ClipEncoder
        for folder, dim in zip(sys.argv[1::2], sys.argv[2::2]):
            tiny = ClipEncoder(ClipSettings(model=folder))
            assert tiny.dim == int(dim) and tiny.identity.startswith("local-dir:")
        assert not {"torch", "open_clip", "transformers"} & set(sys.modules)
    """
    pairs = [str(part) for name in FAMILIES for part in (folders[name], DIMS[name])]
    subprocess.run([sys.executable, "-c", code, *pairs], check=True)


@pytest.mark.parametrize(
    ("config", "dim"),
    [
        ({"model_type": "clip", "projection_dim": 768, "architectures": ["CLIPModel"]}, 768),
        ({"model_type": "clip"}, 512),
        ({"model_type": "siglip", "text_config": {}, "vision_config": {}}, 768),
        ({"model_type": "siglip", "vision_config": {"hidden_size": 1152}}, 1152),
        ({"model_type": "altclip"}, 768),
        ({"model_type": "align"}, 640),
    ],
)
def test_what_a_configuration_leaves_out_is_the_family_s(
    tmp_path: Path, config: dict[str, Any], dim: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert encoder(tmp_path).dim == dim


# --- preprocessing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"size": {"height": 40, "width": 48}, "do_center_crop": False},
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}},
        {"size": {"shortest_edge": 61}, "crop_size": {"height": 48, "width": 40}},
        {"resample": Image.Resampling.BILINEAR},
        {"resample": Image.Resampling.LANCZOS},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    ],
    ids=str,
)
def test_what_an_image_processor_declares_is_done(fields: dict[str, Any]) -> None:
    square = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    processor = transformers.CLIPImageProcessor(**{**square, **fields})
    ours = preprocessing_of(processor)
    assert isinstance(ours, Recipe)
    for image in photographs():
        made = ours.batch([ours.of_image(image)], "cpu")[0]
        theirs = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.cosine_similarity(made.flatten(), theirs.flatten(), dim=0) > 0.9999
        np.testing.assert_allclose(made.mean(), theirs.mean(), rtol=0.02, atol=0.01)


def test_an_image_processor_that_does_something_else_is_asked_itself() -> None:
    processor = transformers.EfficientNetImageProcessor(size={"height": 48, "width": 48}, rescale_offset=True)
    ours = preprocessing_of(processor)
    assert isinstance(ours, OfLibrary)
    image = photographs()[0]
    theirs = processor(images=image, return_tensors="pt")["pixel_values"][0].numpy()
    assert np.array_equal(ours.batch([ours.of_image(image)], "cpu")[0].numpy(), theirs)


def test_a_picture_that_makes_no_number_costs_its_own_row(tmp_path: Path) -> None:
    # Bounds on both sides are no recipe of ours: its pixels are floats, which may be no numbers.
    ours = encoder(tiny_clip.clip(tmp_path / "clip", size={"shortest_edge": 48, "longest_edge": 4800}))
    pixels = [ours.preprocess(image) for image in photographs()]
    assert pixels[0].dtype == np.float32
    clean = ours.encode_images(pixels)
    poisoned = ours.encode_images([pixels[0], np.full_like(pixels[1], np.nan), pixels[2]])
    assert np.isnan(poisoned[1]).all()
    assert np.array_equal(poisoned[[0, 2]], clean[[0, 2]])


def test_patches_keep_the_proportions() -> None:
    ours = preprocessing_of(transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=36))
    assert isinstance(ours, Patches)
    assert ours.of_image(Image.new("RGB", (400, 200))).shape == (32, 64, 3)
    assert ours.of_image(Image.new("RGB", (10_000, 1))).shape[0] == 8


def test_patches_of_one_image_stay_when_the_next_is_decoded() -> None:
    patches = preprocessing_of(transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=256))
    files = []
    for colour in (
        "red",
        "blue",
    ):  # of the size that they are resized to: the pixels are those that were decoded
        file = io.BytesIO()
        Image.new("RGB", (256, 256), colour).save(file, "JPEG")
        files.append(file.getvalue())
    kept = patches.of_bytes(files[0])
    assert kept.shape == (256, 256, 3)
    before = kept.copy()
    patches.of_bytes(files[1])
    assert np.array_equal(kept, before)


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _broken(folder: Path, tmp_path: Path, change: Callable[[Path], object]) -> ClipEncoder:
    shutil.copytree(folder, tmp_path / "broken")
    change(tmp_path / "broken")
    return encoder(tmp_path / "broken")


def test_weights_that_lack_something_are_not_made_up(folders: dict[str, Path], tmp_path: Path) -> None:
    def take_away(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights["visual_projection.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(
        ModelError, match=r"incomplete: its weights lack 1 parameters of CLIPModel, 'visual_proj"
    ):
        _broken(folders["clip"], tmp_path, take_away).load()


def test_weights_that_could_run_code_are_not_read(folders: dict[str, Path], tmp_path: Path) -> None:
    def pickle(folder: Path) -> None:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    with pytest.raises(
        ModelError, match=r"no weights of transformers as safetensors: there is no model.safetensors"
    ):
        _broken(folders["clip"], tmp_path, pickle).load()


def test_a_processor_that_is_missing(folders: dict[str, Path], tmp_path: Path) -> None:
    def take_away(folder: Path) -> None:
        (folder / "preprocessor_config.json").unlink()

    with pytest.raises(ModelError, match=r"cannot be loaded by transformers: .*Check its files"):
        _broken(folders["siglip"], tmp_path, take_away).load()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("not json", "names no model_type"),
        ("[]", "names no model_type"),
        ('{"model_type": "bert"}', "is of a 'bert'; give a model with a picture and a text tower"),
        (
            '{"model_type": "clip", "architectures": ["CLIPVisionModel"]}',
            "is of a 'clip', saved as CLIPVisionModel",
        ),
        (
            '{"model_type": "blip", "architectures": ["BlipForConditionalGeneration"]}',
            "is of a 'blip', saved as BlipForCond",
        ),
    ],
)
def test_a_folder_that_is_no_clip(tmp_path: Path, config: str, said: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=f"is no CLIP: its config.json {said}"):
        encoder(tmp_path).load()


def test_a_model_without_a_common_space(tmp_path: Path) -> None:
    shutil.copytree(tiny_clip.clip(tmp_path / "clip"), tmp_path / "bert")
    words = tiny.tokenizer()
    bert = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps({**config, "projection_dim": 32}))
    with pytest.raises(ModelError, match="a BertModel has no common space of pictures and texts"):
        encoder(tmp_path / "bert").load()
