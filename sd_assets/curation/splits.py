"""Train or validation, for good: by a hash of the image_id alone."""

import hashlib
from typing import Final

TRAIN: Final = "train"
VALIDATION: Final = "validation"
SPLITS: Final = (TRAIN, VALIDATION)
# So that the share is of all ids, whatever they are, and does not go with another use of their first digits.
_PERSON = b"sd_assets split"


def split_of(image_id: str, validation: float) -> str:
    """The split of an image; a larger share of validation takes images from train, and none the other way.

    Args:
        image_id: any text.
        validation: the share of all images that is expected there, 0 to 1.
    """
    digest = hashlib.blake2b(image_id.encode(), digest_size=8, person=_PERSON).digest()
    return VALIDATION if int.from_bytes(digest, "big") < validation * 2**64 else TRAIN
