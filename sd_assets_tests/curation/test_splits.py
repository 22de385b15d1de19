"""Fixed splits."""

import pytest

from sd_assets.curation.splits import VALIDATION, split_of
from sd_assets.schemas import text_id

IDS = [text_id(str(number)) for number in range(2_000)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_validation_has_its_share(share: float) -> None:
    count = sum(split_of(name, share) == VALIDATION for name in IDS)
    assert count == pytest.approx(share * len(IDS), abs=0.03 * len(IDS) if 0 < share < 1 else 0)


def test_a_larger_share_only_takes_from_train() -> None:
    small, large = ({name for name in IDS if split_of(name, share) == VALIDATION} for share in (0.1, 0.2))
    assert small < large


def test_the_split_of_an_image_is_for_good() -> None:
    # Written down when this was made: another answer would move what was validated on into training.
    assert "".join(name for name in "abcdefgh" if split_of(name, 0.5) == VALIDATION) == "cd"
