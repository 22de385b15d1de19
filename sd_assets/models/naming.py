"""How a CLIP is named where it is written down, and when two names mean the same one.

A record (`seed_embeddings.model`, an index's `sd_assets.json`) names a CLIP as its encoder's `identity` does:
`ViT-B-32/openai`, `hf-hub:org/model@commit`, `local-dir:` and a digest of the files. Tools around clip-retrieval write
`ViT-B/32` for OpenAI's weights, `open_clip:ViT-B-32/laion2b_s34b_b79k` for others, and `hf_clip:org/model` for repositories.
"""

import re
from pathlib import Path

from sd_assets.models.hub import folder_digest
from sd_assets.settings import ClipSettings

# The names that OpenAI's own package knows, `ViT-L/14@336px` and the like: all of them are of OpenAI's weights.
_OF_OPENAI = re.compile(r"(?:ViT-[BL]/\d\d(?:@336px)?|RN\d+(?:x\d+)?)")

# Repositories whose weights open_clip knows under a name and a tag of its own, in small letters. OpenAI's are those that
# transformers reads; of the others indices were made by one name or the other.
_REPOSITORIES = {
    "openai/clip-vit-base-patch32": "ViT-B-32/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16/openai",
    "openai/clip-vit-large-patch14": "ViT-L-14/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336/openai",
    "timm/vit_base_patch32_clip_224.openai": "ViT-B-32/openai",
    "timm/vit_base_patch16_clip_224.openai": "ViT-B-16/openai",
    "timm/vit_large_patch14_clip_224.openai": "ViT-L-14/openai",
    "timm/vit_large_patch14_clip_336.openai": "ViT-L-14-336/openai",
    "laion/clip-vit-b-32-laion2b-s34b-b79k": "ViT-B-32/laion2b_s34b_b79k",
    "laion/clip-vit-b-32-datacomp.xl-s13b-b90k": "ViT-B-32/datacomp_xl_s13b_b90k",
    "laion/clip-vit-b-16-laion2b-s34b-b88k": "ViT-B-16/laion2b_s34b_b88k",
    "laion/clip-vit-b-16-datacomp.xl-s13b-b90k": "ViT-B-16/datacomp_xl_s13b_b90k",
    "laion/clip-vit-l-14-laion2b-s32b-b82k": "ViT-L-14/laion2b_s32b_b82k",
    "laion/clip-vit-l-14-datacomp.xl-s13b-b90k": "ViT-L-14/datacomp_xl_s13b_b90k",
    "laion/clip-vit-h-14-laion2b-s32b-b79k": "ViT-H-14/laion2b_s32b_b79k",
    "laion/clip-vit-g-14-laion2b-s12b-b42k": "ViT-g-14/laion2b_s12b_b42k",
    "laion/clip-vit-g-14-laion2b-s34b-b88k": "ViT-g-14/laion2b_s34b_b88k",
    "laion/clip-vit-bigg-14-laion2b-39b-b160k": "ViT-bigG-14/laion2b_s39b_b160k",
}


def clip_name(settings: ClipSettings) -> str:
    """The name of a CLIP, without asking the Hub: its commit is left out.

    Raises:
        ModelError: of a folder: there is no such one.
    """
    if settings.folder is not None:
        return f"local-dir:{folder_digest(Path(settings.folder).expanduser())}"
    if settings.hub_id is not None:
        return f"hf-hub:{settings.hub_id}"
    return f"{settings.model.replace('/', '-')}/{settings.pretrained}"


def same_clip(one: str, other: str) -> bool:
    """Whether two names mean the same CLIP.

    Spellings of one model and its weights are the same, whichever library reads them; so are two commits of one repository of
    the Hub, as most differ in their documentation only.
    """
    return _normal(one) == _normal(other)


def _normal(name: str) -> str:
    name = name.strip().removeprefix("open_clip:")
    if _OF_OPENAI.fullmatch(name):
        name = f"{name.replace('/', '-').replace('@336px', '-336')}/openai"
    repository = name.removeprefix("hf-hub:").removeprefix("hf_clip:").partition("@")[0].casefold()
    if repository in _REPOSITORIES:
        name = _REPOSITORIES[repository]
    elif name.startswith(("hf-hub:", "hf_clip:")):
        return f"hf-hub:{repository}"
    model, slash, weights = name.partition("/")
    if weights == "openai":
        # open_clip gives OpenAI's weights their own activation, whichever of its two configurations is asked for.
        model = model.removesuffix("-quickgelu")
    return f"{model}{slash}{weights}"
