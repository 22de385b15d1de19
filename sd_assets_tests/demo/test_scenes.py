"""The renderer: the same draw gives the same picture, texts tell what is there, training never sees what is held out."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sd_assets.demo import scenes
from sd_assets.demo.scenes import Item, Scene


def drawn(count: int, *, held_out: bool, seed: int = 0) -> list[Scene]:
    return [scenes.sample_scene(scenes.world_rng(seed, part), held_out=held_out) for part in range(count)]


def test_a_tenth_of_the_pairs_is_held_out_and_every_colour_and_object_is_still_trained_on() -> None:
    assert len(scenes.HELD_OUT_PAIRS) * 10 == len(scenes.PAIRS)
    assert set(scenes.PAIRS) == set(scenes.TRAINING_PAIRS) | scenes.HELD_OUT_PAIRS
    assert {colour for colour, _ in scenes.TRAINING_PAIRS} == set(scenes.COLOURS)
    assert {kind for _, kind in scenes.TRAINING_PAIRS} == set(scenes.OBJECTS)


def test_held_out_pairs_are_drawn_for_worlds_only() -> None:
    assert not any(scene.pairs & scenes.HELD_OUT_PAIRS for scene in drawn(3000, held_out=False))
    seen = {pair for scene in drawn(3000, held_out=True) for pair in scene.pairs}
    assert seen == set(scenes.PAIRS)


def test_scenes_hold_one_to_three_items_of_distinct_kinds_in_distinct_slots() -> None:
    many = drawn(1000, held_out=True)
    assert {len(scene.items) for scene in many} == {1, 2, 3}
    for scene in many:
        assert len(scene.objects) == len(scene.items)
        assert [item.slot for item in scene.items] == list(range(len(scene.items)))


def test_worlds_and_training_draw_from_different_seeds() -> None:
    assert scenes.world_rng(7, 3).random() != scenes.training_rng(7, 3).random()
    assert scenes.world_rng(7, 3).random() == scenes.world_rng(7, 3).random()


@pytest.mark.parametrize("size", [64, 200, 512, (120, 80), (90, 300)])
def test_render_is_deterministic_and_has_the_size_asked_for(size: int | tuple[int, int]) -> None:
    for scene in drawn(4, held_out=True):
        first = scenes.render(scene, size, random.Random(5))
        assert first.mode == "RGB"
        assert first.size == ((size, size) if isinstance(size, int) else size)
        assert first.tobytes() == scenes.render(scene, size, random.Random(5)).tobytes()
        assert first.tobytes() != scenes.render(scene, size, random.Random(6)).tobytes()


@pytest.mark.parametrize("colour", scenes.COLOURS)
@pytest.mark.parametrize("kind", scenes.OBJECTS)
def test_an_item_shows_its_colour_in_its_slot(colour: str, kind: str) -> None:
    """The picture is the truth: where the scene says an item is, and nowhere else, pixels of its colour are."""
    other = "black" if colour != "black" else "red"
    companion = "rug" if kind != "rug" else "clock"
    scene = Scene((Item(colour, kind, 0), Item(other, companion, 1)), wall="white", floor="oak")
    rng = random.Random(f"{colour}{kind}")
    pixels = np.asarray(scenes.render(scene, 128, rng), dtype=np.float64)
    palette = np.array(
        [
            *scenes.COLOURS.values(),
            scenes.WALLS["white"],
            scenes.FLOORS["oak"],
            (205, 228, 240),
            (150, 92, 62),
        ],
        dtype=np.float64,
    )
    nearest = np.linalg.norm(pixels[:, :, None, :] - palette, axis=-1).argmin(-1)
    mine = nearest == list(scenes.COLOURS).index(colour)
    assert mine[:, :64].mean() > 0.02
    assert mine[:, :64].sum() > 5 * mine[:, 64:].sum() or colour == "black"


def test_caption_and_parsers_agree_with_the_truth() -> None:
    for scene in drawn(500, held_out=True):
        text = scenes.caption(scene)
        assert scenes.pairs_in(text) == scene.pairs
        assert scenes.objects_in(text) == scene.objects


def test_captions_read_as_documented() -> None:
    scene = Scene((Item("red", "sofa", 0), Item("orange", "lamp", 1)), wall="mint", floor="oak")
    assert (
        scenes.caption(scene) == "a red sofa and an orange lamp in a room with a mint wall and an oak floor"
    )
    three = Scene((*scene.items, Item("black", "bed", 2)), wall="grey", floor="slate")
    assert (
        scenes.caption(three)
        == "a red sofa, an orange lamp and a black bed in a room with a grey wall and a slate floor"
    )


@pytest.mark.parametrize(
    ("text", "pairs", "objects"),
    [
        ("A Red SOFA!", {("red", "sofa")}, {"sofa"}),
        ("two blue lamps and green shelves", {("blue", "lamp"), ("green", "shelf")}, {"lamp", "shelf"}),
        ("a red wall behind a bed", set(), {"bed"}),
        ("redsofa, rugged, tabletop", set(), set()),
        ("", set(), set()),
    ],
)
def test_parsers_read_free_text(text: str, pairs: set[scenes.Pair], objects: set[str]) -> None:
    assert scenes.pairs_in(text) == pairs
    assert scenes.objects_in(text) == objects


def test_equal_captions_mean_equal_scenes() -> None:
    by_caption: dict[str, Scene] = {}
    for scene in drawn(2000, held_out=True):
        assert by_caption.setdefault(scenes.caption(scene), scene) == scene
