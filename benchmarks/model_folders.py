"""`python -m benchmarks.model_folders FOLDER CLIP PICTURES`: models of random weights and pictures, for `benchmarks.models`.

    clip/           a CLIP in open_clip's format; CLIP is the name of an architecture of open_clip, `ViT-B-32` or `ViT-L-14`
    blip/           BLIP base with pictures of 384 x 384 px, in transformers' format as it is published, and a tokenizer of
                    BERT's size
    pictures/       JPEGs of 512 x 512 px, quality 95, as `downloaded_images` holds them: cut out of `benchmarks.web_images`,
                    each with the grey square of `benchmarks.caption_lengths`

With `tiny` as CLIP both models are, and neither is worth anything but for a test. What is there is used again; FOLDER.json is
written last. Prints a JSON line last: the models' parameters, and the pictures and their mean size.
"""

import io
import json
import math
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.caption_lengths import ADDED, FIRST_WORD, MARK_SHARE, grey, length
from benchmarks.web_images import web_images

VERSION = 1  # raise it when what is made changes
TINY = "tiny"
SIDE = 512  # px, of the pictures
QUALITY = 95
_WEB_IMAGES = 250  # that pictures are cut out of

# As BERT has them; all others below FIRST_WORD are not used.
_SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
_WORDS = 30_522
_TINY_WORDS = 1_200
_TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49_408, "width": 32, "heads": 2, "layers": 2},
}
_TINY_TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def make_clip(folder: Path, architecture: str) -> int:
    """A CLIP of open_clip; returns its parameters."""
    import open_clip
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = _TINY_CLIP if architecture == TINY else open_clip.get_model_config(architecture)
    if config is None:
        raise SystemExit(f"open_clip knows no architecture {architecture!r}")
    normal = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    preprocess = {**normal, "interpolation": "bicubic", "resize_mode": "shortest"}
    whole = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    # clip-retrieval, whose open_clip has no `local-dir:`, is told of the architecture by such a file.
    (folder / f"{config_name(architecture)}.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = CLIP(
        **{name: dict(value) if isinstance(value, dict) else value for name, value in config.items()}
    )
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return _parameters(model)


def config_name(architecture: str) -> str:
    """Of the file by which open_clip gets to know the architecture."""
    return f"benchmark-{architecture}"


def make_blip(folder: Path, *, tiny: bool) -> int:
    """A BLIP that captions; returns its parameters."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    words = _TINY_WORDS if tiny else _WORDS
    tower = (
        _TINY_TOWER if tiny else {"num_attention_heads": 12}
    )  # else transformers' defaults, which are of BLIP base
    side = 64 if tiny else 384
    config = transformers.BlipConfig(
        text_config={
            **tower,
            **({"encoder_hidden_size": tower["hidden_size"]} if tiny else {}),
            "vocab_size": words + ADDED,
            "bos_token_id": words,
        },
        # By default weights of the image encoder are next to nothing: numbers that small are slow.
        vision_config={**tower, "image_size": side, "initializer_range": 0.02},
    )
    torch.manual_seed(0)
    model = transformers.BlipForConditionalGeneration(config)
    model.save_pretrained(folder)
    _write_tokenizer(folder, words)
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    _write(
        folder / "preprocessor_config.json",
        {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": OPENAI_CLIP_MEAN,
            "image_std": OPENAI_CLIP_STD,
            "image_processor_type": "BlipImageProcessor",
            "processor_class": "BlipProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": side, "width": side},
        },
    )
    return _parameters(model)


def _write_tokenizer(folder: Path, words: int) -> None:
    """Of BERT's kind, with so many words, special ones included, and the two that BLIP adds."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    ids = {number: name for name, number in _SPECIAL.items()}
    listed = [
        ids.get(number, f"[unused{number}]" if number < FIRST_WORD else f"word{number}")
        for number in range(words)
    ]
    listed += ["[DEC]", "[ENC]"]
    vocabulary = {word: number for number, word in enumerate(listed)}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens([*_SPECIAL, *listed[words:]])
    inner.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(listed) + "\n")
    named = {f"{name.strip('[]').lower()}_token": name for name in _SPECIAL}
    _write(
        folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **named}
    )


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def make_pictures(folder: Path, count: int) -> list[Path]:
    """The pictures, by number, no two alike."""
    folder.mkdir(parents=True)
    sources = web_images(folder.with_name("web-images"), min(count, _WEB_IMAGES))
    cuts = math.ceil(count / len(sources))
    with ThreadPoolExecutor() as pool:
        parts = pool.map(
            lambda place: _cut(folder, sources[place], place * cuts, cuts, count), range(len(sources))
        )
        return [path for part in parts for path in part]


def _cut(folder: Path, source: Path, first: int, cuts: int, count: int) -> list[Path]:
    """Pictures out of one image: squares of other places and sizes, brought to SIDE."""
    written = []
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    for number in range(first, min(first + cuts, count)):
        rng = np.random.default_rng(number)
        side = int(min(image.size) * rng.uniform(0.6, 1))
        left, top = (int(rng.integers(0, whole - side + 1)) for whole in image.size)
        box = (left, top, left + side, top + side)
        picture = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box)
        mark = int(SIDE * MARK_SHARE)
        picture.paste((grey(length(number)),) * 3, (0, 0, mark, mark))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=QUALITY)
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(out.getvalue())
        written.append(path)
    return written


def make(folder: Path, architecture: str, count: int) -> dict[str, Any]:
    """Models and pictures, unless they are there; what is known of them."""
    wanted = {"version": VERSION, "clip": architecture, "pictures": count}
    made = folder.with_name(folder.name + ".json")
    if made.exists():
        known: dict[str, Any] = json.loads(made.read_text())
        if {name: known.get(name) for name in wanted} == wanted:
            return known
    shutil.rmtree(folder, ignore_errors=True)
    parameters = {
        "clip_parameters": make_clip(folder / "clip", architecture),
        "blip_parameters": make_blip(folder / "blip", tiny=architecture == TINY),
    }
    sizes = [path.stat().st_size for path in make_pictures(folder / "pictures", count)]
    about = {**wanted, **parameters, "mean_bytes": round(sum(sizes) / len(sizes))}
    _write(made, about)
    return about


def main(arguments: Sequence[str]) -> None:
    """Do what the command line says, and print it."""
    folder, architecture, count = arguments
    print(json.dumps(make(Path(folder), architecture, int(count))))


if __name__ == "__main__":
    main(sys.argv[1:])
