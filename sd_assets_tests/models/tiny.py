"""Tiny, randomly initialised models of the families that users name, written as those are published."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [
    "a",
    "an",
    "the",
    "red",
    "blue",
    "green",
    "photo",
    "picture",
    "of",
    "sofa",
    "chair",
    "table",
    "lamp",
    "dog",
    "cat",
    "on",
    "in",
    "under",
    "room",
    "kitchen",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]"]
SIDE = 32  # px


def tokenizer(end: str | None = "[SEP]") -> transformers.PreTrainedTokenizerFast:
    """A word a token: `[CLS] words` and the end, if any. An end that is not in SPECIAL gets the largest id."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    if end is not None:
        vocabulary.setdefault(end, len(vocabulary))
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single=f"[CLS] $A {end or ''}".strip(),
        special_tokens=[(word, vocabulary[word]) for word in ("[CLS]", end) if word],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[CLS]",
        eos_token=end or "[SEP]",
    )


def _spread(model: torch.nn.Module) -> None:
    """Weights large enough that the picture decides the words: fresh ones say the same of every picture."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)


_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def blip(folder: Path) -> Path:
    words = tokenizer()
    ids = {"pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 3, "sep_token_id": 3}
    text = {
        **_TEXT,
        "vocab_size": len(words),
        "encoder_hidden_size": 32,
        "max_position_embeddings": 64,
        **ids,
    }
    model = transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(text_config=text, vision_config=_VISION, projection_dim=32)
    )
    _spread(model)
    model.save_pretrained(folder)
    transformers.BlipProcessor(transformers.BlipImageProcessor(size=_square()), words).save_pretrained(folder)
    return folder


def git(folder: Path) -> Path:
    words = tokenizer()
    config = transformers.GitConfig(
        vision_config=_VISION,
        **_TEXT,
        vocab_size=len(words),
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    model = transformers.GitForCausalLM(config)
    _spread(model)
    model.save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=_square())
    transformers.GitProcessor(images, words).save_pretrained(folder)
    return folder


def _opt(words: transformers.PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(words),
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }


def blip2(folder: Path) -> Path:
    words = tokenizer(end=None)
    words.add_tokens(["<image>"], special_tokens=True)
    config = transformers.Blip2Config(
        vision_config=_VISION,
        qformer_config={**_TEXT, "vocab_size": len(words), "encoder_hidden_size": 32},
        text_config=_opt(words),
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    model = transformers.Blip2ForConditionalGeneration(config)
    _spread(model)
    model.save_pretrained(folder)
    images = transformers.BlipImageProcessor(size=_square())
    transformers.Blip2Processor(images, words, num_query_tokens=4).save_pretrained(folder)
    return folder


def instruct_blip(folder: Path) -> Path:
    words = tokenizer(end=None)
    words.add_tokens(["<image>"], special_tokens=True)
    config = transformers.InstructBlipConfig(
        vision_config=_VISION,
        qformer_config={**_TEXT, "vocab_size": len(words), "encoder_hidden_size": 32},
        text_config=_opt(words),
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    model = transformers.InstructBlipForConditionalGeneration(config)
    _spread(model)
    model.save_pretrained(folder)
    images = transformers.BlipImageProcessor(size=_square())
    transformers.InstructBlipProcessor(images, words, tokenizer(), num_query_tokens=4).save_pretrained(folder)
    return folder


def vit_gpt2(folder: Path) -> Path:
    words = tokenizer()
    encoder = transformers.ViTConfig(**_VISION)
    decoder = transformers.GPT2Config(
        vocab_size=len(words), n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    model = transformers.VisionEncoderDecoderModel(config)
    _spread(model)
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=2, pad_token_id=0, eos_token_id=3, num_beams=4, max_length=8
    )
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size=_square()).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _square() -> dict[str, int]:
    return {"height": SIDE, "width": SIDE}


CAPTIONERS = {"blip": blip, "blip-2": blip2, "instructblip": instruct_blip, "git": git, "vit-gpt2": vit_gpt2}


def clip(folder: Path, *, seed: int = 0) -> Path:
    """A CLIP in open_clip's own format with its own small vocabulary, as the demo's is."""
    folder.mkdir(parents=True)
    words = tokenizer(end="[END]")  # open_clip reads the text at its largest id
    vision = {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
    text = {
        "context_length": 16,
        "vocab_size": len(words),
        "width": 32,
        "heads": 2,
        "layers": 2,
        "hf_tokenizer_name": "here",
    }
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    words.save_pretrained(folder)
    torch.manual_seed(seed)
    model = open_clip.CLIP(
        **{key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    )
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder
