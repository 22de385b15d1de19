"""How a CLIP is named where it is written down, and when two names mean the same one.

A record (`seed_embeddings.model`, an index's `sd_assets.json`) names a CLIP as its encoder's `identity` does:
`ViT-B-32/openai`, `hf-hub:org/model@commit`, `local-dir:` and a digest of the files. Tools around clip-retrieval write
`ViT-B/32` for OpenAI's weights, and `open_clip:ViT-B-32/laion2b_s34b_b79k` for others.
"""

import re
from pathlib import Path

from sd_assets.models.loading import folder_digest
from sd_assets.settings import ClipSettings

# The names that OpenAI's own package knows, `ViT-L/14@336px` and the like: all of them are of OpenAI's weights.
_OF_OPENAI = re.compile(r"(?:ViT-[BL]/\d\d(?:@336px)?|RN\d+(?:x\d+)?)")


def clip_name(settings: ClipSettings) -> str:
    """The name of a CLIP, without asking the Hub: its commit is left out.

    Raises:
        ModelError: of `local-dir:`: there is no such folder.
    """
    folder = settings.model.removeprefix("local-dir:")
    if folder != settings.model:
        return f"local-dir:{folder_digest(Path(folder))}"
    if settings.model.startswith("hf-hub:"):
        return settings.model
    return f"{settings.model.replace('/', '-')}/{settings.pretrained}"


def same_clip(one: str, other: str) -> bool:
    """Whether two names mean the same CLIP.

    Spellings of one model and its weights are the same; so are two commits of one repository of the Hub, as most differ in
    their documentation only.
    """
    return _normal(one) == _normal(other)


def _normal(name: str) -> str:
    name = name.strip().removeprefix("open_clip:")
    if _OF_OPENAI.fullmatch(name):
        name = f"{name.replace('/', '-').replace('@336px', '-336')}/openai"
    if name.startswith("hf-hub:"):
        return name.partition("@")[0].casefold()
    model, slash, weights = name.partition("/")
    if weights == "openai":
        # open_clip gives OpenAI's weights their own activation, whichever of its two configurations is asked for.
        model = model.removesuffix("-quickgelu")
    return f"{model}{slash}{weights}"
