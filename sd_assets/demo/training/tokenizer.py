"""A word-level tokenizer over the few words of the embedded world, in Hugging Face's fast format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sd_assets.demo.training.data import WORDS

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
VOCABULARY: tuple[str, ...] = (PAD, UNKNOWN, START, *WORDS, END)
"""The end token comes last: open_clip pools a text at its largest token id."""


def build_tokenizer(max_length: int) -> Any:
    """A `PreTrainedTokenizerFast` that wraps each text in start and end, cut at `max_length` tokens."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=64))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()  # it joins words and puts punctuation where it belongs
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=START,
        sep_token=END,
        bos_token=START,
        eos_token=END,
        clean_up_tokenization_spaces=True,
    )


def save_tokenizer(folder: Path, max_length: int) -> None:
    """Write the tokenizer's files to a folder, so that transformers 4 and 5 both read them."""
    build_tokenizer(max_length).save_pretrained(str(folder))
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    # transformers 5 writes a class name that 4 does not know; this one means the same to both.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def encode(tokenizer: Any, texts: list[str], length: int) -> Any:
    """Token ids of texts, padded to `length`: an int64 tensor (texts, length)."""
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids
