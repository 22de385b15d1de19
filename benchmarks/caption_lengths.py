"""How long captions are: 5 to 20 words, as each picture itself says, for any program that runs a BLIP of transformers.

A model of random weights never ends a caption by itself. So each picture bears a square in its top left corner, whose grey
says how many words its caption has. `impose` has transformers' own BLIP obey: the image encoder reads the square from the
pixels that it is given, and hands the number on in the first value of what it makes of the picture; the text decoder finds
it there, and decides for the end token after so many words, and for none of the other special tokens before. So the number
goes with the picture through any batch, order, cache or number format, and whoever runs the model need not know of it.

It works in transformers 4.57 and 5, and loads torch only when it is called.
"""

import functools
import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

SHORTEST, LONGEST = 5, 20
# More than any caption has; so it limits none.
MAX_NEW_TOKENS = 32
# Of a picture's side: the square, and what of it is read, away from its edges.
MARK_SHARE = 1 / 8
_READ_FROM, _READ_TO = 1 / 32, 3 / 32
_STEP = 255 / (LONGEST - SHORTEST)
# Ids below, and the two that BLIP adds to BERT's 30,522, are no words.
FIRST_WORD, ADDED = 1_000, 2
_SURE = 1e4


def length(number: int) -> int:
    """Words in the caption of the picture with this number."""
    return random.Random(number).randint(SHORTEST, LONGEST)


def grey(words: int) -> int:
    """The square's grey, 0 to 255, of a picture whose caption has so many words."""
    return round((words - SHORTEST) * _STEP)


def require(captions: Sequence[str]) -> None:
    """See that each caption has the words that its picture asks for.

    Args:
        captions: of the first pictures, in their order.

    Raises:
        RuntimeError: one has not.
    """
    for number, caption in enumerate(captions):
        if len(caption.split()) != length(number):
            raise RuntimeError(
                f"the caption of picture {number} is to have {length(number)} words: {caption!r}"
            )


def impose() -> None:
    """From now on all BLIPs of this process write captions of these lengths."""
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

    BlipVisionModel.forward = _reading(BlipVisionModel.forward)
    BlipTextLMHeadModel.forward = _ending(BlipTextLMHeadModel.forward)


def _reading(forward: Callable[..., Any]) -> Callable[..., Any]:
    from transformers.image_utils import OPENAI_CLIP_MEAN as MEAN
    from transformers.image_utils import OPENAI_CLIP_STD as STD

    @functools.wraps(forward)
    def wrapped(self: Any, pixel_values: Any, *args: Any, **named: Any) -> Any:
        made = forward(self, pixel_values, *args, **named)
        side = pixel_values.shape[-1]
        first, last = int(side * _READ_FROM), int(side * _READ_TO)
        # The red channel is enough: the square is grey.
        shown = pixel_values[:, 0, first:last, first:last].float().mean(dim=(1, 2)) * STD[0] + MEAN[0]
        words = (shown * 255 / _STEP).round() + SHORTEST
        states = made[0]
        states[:, 0, 0] = words.to(states.dtype)
        return made

    return wrapped


def _ending(forward: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    signature = inspect.signature(forward)

    @functools.wraps(forward)
    def wrapped(self: Any, *args: Any, **named: Any) -> Any:
        given = signature.bind(self, *args, **named).arguments
        mask, past = given.get("attention_mask"), given.get("past_key_values")
        # Words so far: all tokens but the first, which begins the caption.
        if mask is not None and mask.ndim == 2:
            words = mask.sum(1) - 1
        else:
            words = given["input_ids"].shape[1] - 1 + (past.get_seq_length() if past is not None else 0)
        made = forward(self, *args, **named)
        last = made.logits[:, -1]
        last[:, :FIRST_WORD] = -_SURE
        last[:, -ADDED:] = -_SURE
        ended = words >= given["encoder_hidden_states"][:, 0, 0]
        last[:, self.config.sep_token_id] = torch.where(ended, _SURE, -_SURE).to(last.dtype)
        return made

    return wrapped
