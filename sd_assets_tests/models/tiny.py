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


def florence2(folder: Path) -> Path:
    words = _with_image_token(tokenizer())
    stages = 2
    vision = {
        "depths": [1] * stages,
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [16, 32],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "window_size": 4,
        "projection_dim": 32,
    }
    text = {
        "model_type": "bart",
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 64,
        **_ids(words),
        "decoder_start_token_id": 3,
    }
    model = transformers.Florence2ForConditionalGeneration(
        transformers.Florence2Config(
            vision_config=vision,
            text_config=text,
            image_token_id=words.image_token_id,
            **_ids(words),
            decoder_start_token_id=3,
        )
    )
    _spread(model)
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, num_beams=3
    )
    model.save_pretrained(folder)
    images = transformers.CLIPImageProcessor(
        size=_square(), do_center_crop=False, image_seq_length=(SIDE // 8) ** 2 + 1
    )
    images.image_seq_length = (SIDE // 8) ** 2 + 1
    transformers.Florence2Processor(images, words).save_pretrained(folder)
    return folder


_CHAT = (
    "{% for message in messages %}the {% for part in message.content %}"
    "{% if part.type == 'image' %}%s {% else %}{{ part.text }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}picture of{% endif %}"
)


def llava(folder: Path) -> Path:
    """A chat model whose pictures are all of one size."""
    words = _with_image_token(tokenizer(end=None))
    model = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config={"model_type": "clip_vision_model", **_VISION},
            text_config=_llama(words),
            image_token_index=words.image_token_id,
            vision_feature_layer=-1,
        )
    )
    _spread(model)
    _saved(model, folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=_square())
    transformers.LlavaProcessor(
        images,
        words,
        patch_size=8,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=_CHAT.replace("%s", "<image>"),
    ).save_pretrained(folder)
    return folder


def qwen2_vl(folder: Path) -> Path:
    """A chat model whose pictures have as many tokens as their size asks for."""
    words = _with_image_token(tokenizer(end=None), "<|image_pad|>")
    words.add_tokens(["<|vision_start|>", "<|vision_end|>", "<|video_pad|>"], special_tokens=True)
    marks = ("vision_start", "vision_end", "video_pad")
    start, end, video = (words.convert_tokens_to_ids(f"<|{mark}|>") for mark in marks)
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 32,
        "num_heads": 2,
        "patch_size": 8,
        "mlp_ratio": 2,
    }
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [2, 3, 3]}
    model = transformers.Qwen2VLForConditionalGeneration(
        transformers.Qwen2VLConfig(
            vision_config=vision,
            text_config={**_llama(words), "model_type": "qwen2_vl_text", "rope_scaling": rope},
            image_token_id=words.image_token_id,
            video_token_id=video,
            vision_start_token_id=start,
            vision_end_token_id=end,
        )
    )
    _spread(model)
    _saved(model, folder)
    pixels = {"min_pixels": 16 * 16, "max_pixels": 64 * 64}
    images = transformers.Qwen2VLImageProcessor(patch_size=8, **pixels)
    videos = transformers.Qwen2VLVideoProcessor(patch_size=8)
    template = _CHAT.replace("%s", "<|vision_start|><|image_pad|><|vision_end|>")
    transformers.Qwen2VLProcessor(images, words, videos, chat_template=template).save_pretrained(folder)
    return folder


def paligemma(folder: Path) -> Path:
    """Without a chat template: its processor takes a picture within a text."""
    words = _with_image_token(tokenizer(end=None))
    words.add_tokens([f"<loc{number:04d}>" for number in range(1024)])
    words.add_tokens([f"<seg{number:03d}>" for number in range(128)])
    text = {**_llama(words), "model_type": "gemma", "head_dim": 16, "tie_word_embeddings": False}
    model = transformers.PaliGemmaForConditionalGeneration(
        transformers.PaliGemmaConfig(
            vision_config={"model_type": "siglip_vision_model", **_VISION, "projection_dim": 32},
            text_config=text,
            projection_dim=32,
            image_token_index=words.image_token_id,
            **_ids(words),
        )
    )
    _spread(model)
    _saved(
        model,
        folder,
        suppress_tokens=words.convert_tokens_to_ids(
            [w for w in words.get_vocab() if w[1:4] in ("loc", "seg")]
        ),
    )
    images = transformers.SiglipImageProcessor(size=_square())
    images.image_seq_length = (SIDE // 8) ** 2
    transformers.PaliGemmaProcessor(images, words).save_pretrained(folder)
    return folder


def idefics3(folder: Path) -> Path:
    """A chat model whose pictures are cut into tiles, of which larger ones have more."""
    words = _with_image_token(tokenizer(end=None))
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words.add_tokens(
        ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles], special_tokens=True
    )
    model = transformers.Idefics3ForConditionalGeneration(
        transformers.Idefics3Config(
            vision_config=_VISION,
            text_config=_llama(words),
            image_token_id=words.image_token_id,
            scale_factor=2,
            pad_token_id=0,
        )
    )
    _spread(model)
    _saved(model, folder)
    images = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    template = _CHAT.replace("%s", "<image>")
    transformers.Idefics3Processor(
        images, words, image_seq_len=(SIDE // 8 // 2) ** 2, chat_template=template
    ).save_pretrained(folder)
    return folder


def kosmos2(folder: Path) -> Path:
    """Without a chat template: its processor puts the picture before the text."""
    words = tokenizer(end=None)
    marks = [
        "image",
        "/image",
        "grounding",
        "phrase",
        "/phrase",
        "object",
        "/object",
        "/delimiter_of_multi_objects/",
    ]
    places = [f"<patch_index_{number:04d}>" for number in range(64)]
    words.add_tokens([*(f"<{mark}>" for mark in marks), *places], special_tokens=True)
    text = {
        **_ids(words),
        "embed_dim": 32,
        "layers": 2,
        "ffn_dim": 64,
        "attention_heads": 2,
        "max_position_embeddings": 256,
    }
    model = transformers.Kosmos2ForConditionalGeneration(
        transformers.Kosmos2Config(vision_config=_VISION, text_config=text, latent_query_num=64)
    )
    _spread(model)
    silent = words.convert_tokens_to_ids([*(f"<{mark}>" for mark in marks), *places])
    _saved(model, folder, suppress_tokens=silent)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=_square())
    transformers.Kosmos2Processor(images, words, num_patch_index_tokens=64).save_pretrained(folder)
    return folder


def _with_image_token(
    words: transformers.PreTrainedTokenizerFast, token: str = "<image>"
) -> transformers.PreTrainedTokenizerFast:
    """The same words and, as `image_token`, what stands for a picture."""
    words.add_special_tokens({"additional_special_tokens": [token]})
    words.init_kwargs["extra_special_tokens"] = {"image_token": token}
    words._set_model_specific_special_tokens({"image_token": token})
    return words


def _ids(words: transformers.PreTrainedTokenizerFast) -> dict[str, int]:
    return {"vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def _llama(words: transformers.PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "model_type": "llama",
        **_TEXT,
        **_ids(words),
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
    }


def _saved(model: Any, folder: Path, **generation: Any) -> None:
    """With the settings of a chat model, which are to sample; the catalogue says otherwise."""
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=[3, 0],
        do_sample=True,
        temperature=0.7,
        top_k=5,
        **generation,
    )
    model.save_pretrained(folder)


def _square() -> dict[str, int]:
    return {"height": SIDE, "width": SIDE}


CAPTIONERS = {
    "blip": blip,
    "blip-2": blip2,
    "instructblip": instruct_blip,
    "git": git,
    "vit-gpt2": vit_gpt2,
    "florence-2": florence2,
    "llava": llava,
    "qwen2-vl": qwen2_vl,
    "idefics3": idefics3,
    "paligemma": paligemma,
    "kosmos-2": kosmos2,
}


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
