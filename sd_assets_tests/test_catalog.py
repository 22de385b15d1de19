"""The catalogue: merging, expansion, and errors that a person can act on."""

import re
from pathlib import Path
from typing import Any

import pytest

from sd_assets import catalog
from sd_assets.errors import CatalogError
from sd_assets.settings import BlockedSettings, ServiceIndexSettings, parse_allowed_address

CLIP = {"model": "ViT-L-14", "pretrained": "openai"}
GOOD: dict[str, Any] = {
    "defaults": {"clip": CLIP, "download": {"image_size": 256}, "retrieval": {"index": "rooms"}},
    "indices": {"rooms": {"kind": "faiss", "path": "index"}},
    "seed_datasets": {"logos": {"source": {"kind": "folder", "path": "images"}}},
}


def with_entry(**entry: Any) -> dict[str, Any]:
    return {**GOOD, "seed_datasets": {"logos": entry}}


def test_an_entry_overrides_the_defaults_field_by_field(tmp_path: Path) -> None:
    raw = with_entry(prompts={"texts": ["a"]}, download={"retries": 7}, clip={"model": "hf-hub:org/model"})
    entry = catalog.parse(raw, tmp_path / "c.yaml").entry("logos")
    assert (entry.download.image_size, entry.download.retries) == (256, 7)
    # Another model has other weights: the default's tag does not go with it.
    assert (entry.clip.model, entry.clip.pretrained) == ("hf-hub:org/model", None)


@pytest.mark.parametrize("model", ["local-dir:models/clip", "local-dir:./models/clip", "./models/clip"])
def test_the_folder_of_a_clip_is_relative_to_the_file(tmp_path: Path, model: str) -> None:
    raw = with_entry(prompts={"texts": ["a"]}, clip={"model": model})
    clip = catalog.parse(raw, tmp_path / "c.yaml").entry("logos").clip
    assert clip.model == f"local-dir:{tmp_path / 'models' / 'clip'}"
    assert (clip.folder, clip.hub_id) == (str(tmp_path / "models" / "clip"), None)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    raw = {
        **with_entry(
            prompts={"file": "p.txt"}, clip={"model": "local-dir:models/clip"}, captioner={"model": "./blip"}
        )
    }
    found = catalog.parse(raw, tmp_path / "c.yaml")
    entry, index = found.entry("logos"), found.index("rooms")
    assert entry.prompts is not None
    assert entry.prompts.file == str(tmp_path / "p.txt")
    assert entry.clip.model == f"local-dir:{tmp_path / 'models' / 'clip'}"
    assert entry.captioner.model == str(tmp_path / "blip")
    assert getattr(index, "path", None) == str(tmp_path / "index")


def test_images_to_keep_out_are_relative_to_the_file(tmp_path: Path) -> None:
    raw = with_entry(
        prompts={"texts": ["a"]}, near_duplicates={"keep_out": {"kind": "folder", "path": "evaluation"}}
    )
    keep_out = catalog.parse(raw, tmp_path / "c.yaml").entry("logos").near_duplicates.keep_out
    assert getattr(keep_out, "path", None) == str(tmp_path / "evaluation")


def against(**names: list[str]) -> dict[str, Any]:
    """Entries whose images are compared with those of others."""
    return {
        **GOOD,
        "seed_datasets": {
            name: {"prompts": {"texts": ["a"]}, "near_duplicates": {"against": others}}
            for name, others in names.items()
        },
    }


def test_other_entries_win_in_one_direction(tmp_path: Path) -> None:
    # An entry's own name is that of defaults, which all share.
    found = catalog.parse(against(a=["a"], b=["a"], c=["a", "b", "c"]), tmp_path / "c.yaml")
    assert found.entry("c").near_duplicates.against == ("a", "b", "c")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"a": ["logo"], "logos": []},
            r"a\.near_duplicates\.against: there is no seed dataset 'logo'.*did you mean 'logos'",
        ),
        ({"a": ["b"], "b": ["a"]}, r"a\.near_duplicates\.against: it leads back to a"),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, r"b\.near_duplicates\.against: it leads back to b"),
    ],
)
def test_a_mistake_in_what_wins(tmp_path: Path, entries: dict[str, list[str]], message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        catalog.parse(against(**entries), tmp_path / "c.yaml")


@pytest.mark.parametrize("kind", ["folder", "parquet", "webdataset", "urls"])
def test_paths_of_sources_are_relative_to_the_file(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "here")
    for path, resolved in {
        "sub/*.x": tmp_path / "sub" / "*.x",
        "${PLACE}/a-{0..3}": tmp_path / "here" / "a-{0..3}",
        "/data/x": "/data/x",
        "${NOT_SET_AT_ALL}/x": "${NOT_SET_AT_ALL}/x",
    }.items():
        raw = with_entry(source={"kind": kind, "path": path})
        source = catalog.parse(raw, tmp_path / "c.yaml").entry("logos").source
        assert getattr(source, "path", None) == str(resolved)


def with_index(**index: Any) -> dict[str, Any]:
    return {**GOOD, "indices": {**GOOD["indices"], "mine": {"kind": "faiss", "path": "mine", **index}}}


def test_paths_of_indices_are_relative_to_the_file(tmp_path: Path) -> None:
    corpus = {"kind": "clip-retrieval", "path": "corpus"}
    raw = with_index(corpus=corpus, clip={"model": "local-dir:clip"}, aesthetic_embeddings="ratings")
    index = catalog.parse(raw, tmp_path / "c.yaml").folder_index("mine")
    assert index.path == str(tmp_path / "mine")
    assert index.corpus is not None and getattr(index.corpus, "path", None) == str(tmp_path / "corpus")
    assert index.clip is not None and index.clip.model == f"local-dir:{tmp_path / 'clip'}"
    assert index.aesthetic_embeddings == str(tmp_path / "ratings")


def test_an_index_that_is_no_folder_is_said_with_those_that_are(tmp_path: Path) -> None:
    served = {"kind": "clip-retrieval", "url": "http://knn"}
    found = catalog.parse({**GOOD, "indices": {**GOOD["indices"], "web": served}}, tmp_path / "c.yaml")
    with pytest.raises(CatalogError, match=r"'web' is a service.*of `kind: faiss` there are: rooms$"):
        found.folder_index("web")
    with pytest.raises(CatalogError, match=r"there is no index 'room'; did you mean 'rooms'\?"):
        found.folder_index("room")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            with_index(corpus={"kind": "partition", "partition": "logo"}),
            "indices.mine.corpus.partition: there is no seed dataset 'logo'; there are: logos; did you mean 'logos'?",
        ),
        (
            with_index(corpus={"kind": "partition", "partition": "logos", "downloads_of": "other"}),
            "indices.mine.corpus.downloads_of: there is no seed dataset 'other'; there are: logos",
        ),
        (
            with_index(corpus={"kind": "datacomp", "path": "x", "arrays": "l14_img"}),
            "indices.mine.corpus.arrays: unknown field",
        ),
        (
            with_index(corpus={"kind": "partition", "partition": 7}),
            "indices.mine.corpus.partition: must be a text",
        ),
        (with_index(corpus={"kind": "npy"}), "indices.mine.corpus: there is no kind 'npy'"),
        (with_index(clip={"model": "ViT-B-32"}), "indices.mine.clip: model 'ViT-B-32' has no weights"),
        (
            {**GOOD, "indices": {**GOOD["indices"], "a...b": {"kind": "faiss", "path": "x"}}},
            "indices.'a...b': the name is a partition key: no `...`",
        ),
    ],
)
def test_a_mistake_in_an_index(tmp_path: Path, raw: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogError, match=re.escape(message)):
        catalog.parse(raw, tmp_path / "c.yaml")


def test_environment_variables_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNN", "http://knn:1234")
    index = {"kind": "clip-retrieval", "url": "${KNN}/x", "indice_name": "${NAME_NOT_SET:-fallback}"}
    found = catalog.parse({**GOOD, "indices": {"rooms": index}}, tmp_path / "c.yaml").index("rooms")
    assert isinstance(found, ServiceIndexSettings)
    assert (found.url, found.indice_name) == (("http://knn:1234/x",), "fallback")


def test_an_unset_variable_hurts_only_who_uses_it(tmp_path: Path) -> None:
    index = {"kind": "clip-retrieval", "url": "${NOT_SET_AT_ALL}"}
    found: Any = catalog.parse(
        {**GOOD, "indices": {**GOOD["indices"], "other": index}}, tmp_path / "c.yaml"
    ).index("other")
    with pytest.raises(CatalogError, match="NOT_SET_AT_ALL is not set: export NOT_SET_AT_ALL="):
        catalog.require_set(found.url[0], "indices.other.url")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "must be a mapping with `seed_datasets:`"),
        ({**GOOD, "datasets": {}}, "datasets: unknown section; allowed: defaults, indices, seed_datasets"),
        ({**GOOD, "seed_datasets": {}}, "there is no entry"),
        (
            {**GOOD, "seed_datasets": {"a/b": {}}},
            r"seed_datasets.a/b: the name is a folder and a partition key",
        ),
        (with_entry(), "needs `source:` .images., `prompts:`, or both"),
        (with_entry(source={"kind": "folder"}), r"seed_datasets.logos.source.path: this field is required"),
        (with_entry(source={"kind": "zip"}), "source: there is no kind 'zip'; allowed: 'folder', 'hub'"),
        (
            with_entry(source={"kind": "hub", "id": "a/b", "spilt": "x"}),
            r"spilt: unknown field; allowed: .*split",
        ),
        (with_entry(prompts={"template": "{a} {b}", "a": ["x"]}), r"uses \{b\}, but there is no list `b:`"),
        (with_entry(prompts={"template": "x", "a": ["x"]}), "the list `a:` is used nowhere"),
        (with_entry(prompts={"template": "{a}", "a": "x"}), "`a` must be a list of texts"),
        (
            with_entry(prompts={"texts": ["x"]}, clip={"model": "ViT-B-32"}),
            "has no weights: add `pretrained:`",
        ),
        (
            with_entry(prompts={"texts": ["x"]}, retrieval={"index": "no"}),
            "there is no index 'no' under `indices:`; there are: rooms",
        ),
        (
            with_entry(prompts={"texts": ["x"]}, download={"resize_mode": "crop"}),
            r"resize_mode: .*'center_crop', got 'crop'",
        ),
        (
            with_entry(prompts={"texts": ["x"]}, download={"image_size": 0}),
            r"image_size: .*greater than or equal to 1, got 0",
        ),
        (
            with_entry(prompts={"texts": ["x"]}, download={"allow_addresses": ["home"]}),
            "'home' is no address or network",
        ),
    ],
)
def test_a_mistake_says_where_and_what_is_allowed(tmp_path: Path, raw: Any, message: str) -> None:
    with pytest.raises(CatalogError, match=message) as caught:
        catalog.parse(raw, tmp_path / "c.yaml")
    assert str(tmp_path / "c.yaml") in str(caught.value)


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    raw = {
        **GOOD,
        "indices": {"rooms": {"kind": "faiss"}, 1: {"kind": "faiss", "path": "x"}},
        "seed_datasets": {"a": {"source": {"kind": "hub"}}, "b": 3, "c": {"description": "no seeds", "x": 1}},
    }
    with pytest.raises(CatalogError, match="6 mistake") as caught:
        catalog.parse(raw, tmp_path / "c.yaml")
    for place in (
        "indices.rooms.path",
        "seed_datasets.a.source.id",
        "seed_datasets.b",
        "seed_datasets.c",
        "seed_datasets.c.x",
    ):
        assert f"  {place}: " in str(caught.value)


def test_a_mistake_in_the_defaults_is_said_there_and_once(tmp_path: Path) -> None:
    entries = {name: {"prompts": {"texts": ["x"]}} for name in ("a", "b", "c")}
    defaults = {**GOOD["defaults"], "retrieval": {"index": "rooms", "images_per_qery": 20}}
    with pytest.raises(CatalogError, match="1 mistake") as caught:
        catalog.parse({**GOOD, "defaults": defaults, "seed_datasets": entries}, tmp_path / "c.yaml")
    assert "  defaults.retrieval.images_per_qery: unknown field; allowed: " in str(caught.value)


def test_an_unknown_entry_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no seed dataset 'logo'; there are: logos; did you mean 'logos'"):
        catalog.parse(GOOD, tmp_path / "c.yaml").entry("logo")


TWENTY = """\
default: {}                                                   # unknown section
defaults:
  clip: {model: ViT-L-14, pretrained: openai}
  retrieval: {index: rooms, images_per_qery: 20}              # unknown field
indices:
  rooms: {kind: faiss}                                        # missing field
  web: {kind: clip-retreival, url: "http://knn:1234"}         # unknown kind
  knn: {kind: clip-retrieval, url: "http://knn:1234"}
  knn: {kind: clip-retrieval, url: "${KNN_URL"}               # a key that stands twice; a variable that does not end
seed_datasets:
  my photos: {prompts: {texts: [a]}}                          # no name for a folder
  yes: {prompts: {texts: [a]}}                                # the truth value as a name
  year: {source: {kind: hub, id: a/b, split: 2024}}           # a number where a text is meant
  truth: {source: {kind: parquet, path: p, text_column: yes}} # a truth value where a text is meant
  mapping: {source: /data/photos}                             # a text where a mapping is meant
  range: {prompts: {texts: [a]}, download: {image_size: 0}}
  number: {prompts: {texts: [a]}, download: {retries: many}}
  choice: {prompts: {texts: [a]}, download: {resize_mode: center-crop}}
  network: {prompts: {texts: [a]}, download: {allow_addresses: [home]}}
  empty_field: {prompts: {template: "a {colour} {room}", colour: [red]}}
  index: {prompts: {texts: [a]}, retrieval: {index: room}}    # not under `indices:`
  weights: {prompts: {texts: [a]}, clip: {model: ViT-B-32}}
  both: {prompts: {texts: [a]}, clip: {model: "hf-hub:org/clip", pretrained: openai}}
  no_seeds: {description: neither source nor prompts}
"""
# What each line of the error must say; in the order of the lines.
TWENTY_ANSWERS = [
    ("indices.knn: stands twice, in line 8 and in line 9", "take one away or rename it"),
    ("default: unknown section; allowed: defaults, indices, seed_datasets", "did you mean 'defaults'?"),
    ("indices.knn.url: a `${` that begins no variable: write ${NAME}", "got 'http", "${KNN_URL'"),
    ("indices.rooms.path: this field is required",),
    ("indices.web: there is no kind 'clip-retreival'", "'faiss', 'clip-retrieval'", "did you mean 'clip-ret"),
    (
        "defaults.retrieval.images_per_qery: unknown field; allowed: aesthetic_score, ",
        "did you mean 'images_per_query'?",
    ),
    (
        "seed_datasets.my photos: the name is a folder and a partition key: letters, digits",
        "got 'my photos'; 'my_photos' would do",
    ),
    ("seed_datasets.True: the name", "YAML reads it as True: put quotes around it"),
    ("seed_datasets.year.source.split: must be a text, got 2024", "put quotes around it"),
    ("seed_datasets.truth.source.text_column: must be a text, got True", "put quotes around it"),
    (
        "seed_datasets.mapping.source: must be a mapping of fields; allowed: {kind: folder, ...}",
        "{kind: urls, ...}, got '/data/photos'",
    ),
    ("seed_datasets.range.download.image_size: must be greater than or equal to 1, got 0",),
    ("seed_datasets.number.download.retries: must be a whole number, got 'many'",),
    (
        "seed_datasets.choice.download.resize_mode: must be 'no', ",
        "got 'center-crop'; did you mean 'center_crop'?",
    ),
    ("seed_datasets.network.download.allow_addresses: 'home' is no address or network: write 127.0.0.1",),
    ("seed_datasets.empty_field.prompts: the template uses {room}, but there is no list `room:`",),
    (
        "seed_datasets.index.retrieval.index: there is no index 'room' under `indices:`; there are: rooms, web",
    ),
    ("seed_datasets.weights.clip: model 'ViT-B-32' has no weights: add `pretrained:`",),
    ("seed_datasets.both.clip: model 'hf-hub:org/clip' names its own weights: take `pretrained` away",),
    ("seed_datasets.no_seeds: a seed dataset needs `source:` (images), `prompts:`, or both",),
]


def test_twenty_mistakes_are_twenty_errors_in_one_pass(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(TWENTY.replace("${KNN_URL", "http://${KNN_URL"))
    with pytest.raises(CatalogError) as caught:
        catalog.load(tmp_path / "c.yaml")
    first, *lines = str(caught.value).splitlines()
    assert first == f"{tmp_path / 'c.yaml'}: 20 mistake(s):"
    assert len(lines) == len(TWENTY_ANSWERS) == 20
    for line, parts in zip(lines, TWENTY_ANSWERS, strict=True):
        assert line.startswith(f"  {parts[0]}")
        assert all(part in line for part in parts), line


def test_what_the_twenty_are_mended_to_is_right(tmp_path: Path) -> None:
    """So that no error of the twenty hides another, or complains of what is right."""
    mended = {
        "default: {} ": "",
        "qery": "query",
        "{kind: faiss}": "{kind: faiss, path: index}",
        "retreival": "retrieval",
        '  knn: {kind: clip-retrieval, url: "http://knn:1234"}\n': "",
        "${KNN_URL": "${KNN_URL}",
        "my photos": "my_photos",
        "yes: {prompts": '"yes": {prompts',
        "2024": '"2024"',
        "text_column: yes": 'text_column: "yes"',
        "source: /data/photos": "source: {kind: folder, path: /data/photos}",
        "image_size: 0": "image_size: 1",
        "many": "3",
        "center-crop": "center_crop",
        "[home]": '["10.0.0.0/8", "[::1]:8000"]',
        '{room}", colour': '{room}", room: [hall], colour',
        "index: room}": "index: rooms}",
        "{model: ViT-B-32}": "{model: ViT-B-32, pretrained: openai}",
        'hf-hub:org/clip", pretrained: openai': 'hf-hub:org/clip"',
        "{description: neither source nor prompts}": "{prompts: {texts: [a]}}",
    }
    text = TWENTY
    for wrong, right in mended.items():
        assert text.count(wrong) == 1, wrong
        text = text.replace(wrong, right)
    (tmp_path / "c.yaml").write_text(text)
    assert len(catalog.load(tmp_path / "c.yaml").seed_datasets) == 14


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"prompts": {"texts": "a red sofa"}}, "prompts.texts: must be a list, got 'a red sofa'"),
        ({"prompts": {"texts": ["a", True]}}, "prompts.texts.1: must be a text, got True; YAML reads it"),
        ({"prompts": {"text": ["a"]}}, "the list `text:` needs a `template:`.*a plain list is `texts:`"),
        ({"source": {"path": "x"}}, r"source: `kind:` is required; allowed: \{kind: folder, \.\.\.\}"),
        ({"source": {"kind": "url", "path": "x"}}, "there is no kind 'url'.*did you mean 'urls'"),
        (
            {"source": {"kind": "parquet", "path": "x", "image_colum": "y"}},
            "source.image_colum: unknown field; allowed: image_column, .*; did you mean 'image_column'",
        ),
        (
            {"source": {"kind": "urls", "path": 7}},
            "source.path: must be a text, got 7; YAML reads it as a num",
        ),
        ({"prompts": {"texts": ["a"]}, "clip": None}, "clip: must be a mapping of fields.*got nothing"),
        (
            {"prompts": {"texts": ["a"]}, "clip": "ViT-L-14"},
            "allowed: batch_size, .*, got 'ViT-L-14'",
        ),
        ({"prompts": {"texts": ["a"]}, "captionr": {}}, "unknown field; .*did you mean 'captioner'"),
        (
            {"prompts": {"texts": ["a"]}, "download": {"retries": True}},
            "retries: must be a whole number, got 'True'; YAML reads yes",
        ),
        (
            {"prompts": {"texts": ["a"]}, "download": {"quality": 9.5}},
            "quality: must be a whole number, got 9.5",
        ),
        (
            {"prompts": {"texts": ["a"]}, "download": {"timeout_s": "1m"}},
            "timeout_s: must be a number, got '1m'",
        ),
        (
            {"prompts": {"texts": ["a"]}, "download": {"resize_only_if_bigger": "maybe"}},
            "must be true or false, got 'maybe'",
        ),
        (
            {"prompts": {"texts": ["a"]}, "retrieval": {"index": "room"}},
            "there are: rooms; did you mean 'rooms'",
        ),
        ({"prompts": {"texts": ["a"], "file": "${P:-p"}}, "prompts.file: a `..` that begins no variable"),
        (
            {"prompts": {"texts": ["a"]}, "curation": {"min": {"nsfw": 2}, "max": {"nsfw": 1}}},
            r"curation: `min` of nsfw \(2\) is more than its `max` \(1\)",
        ),
        (
            {"prompts": {"texts": ["a"]}, "curation": {"min": {"sharpness": True}}},
            "curation.min.sharpness: must be a number, got 'True'; YAML reads yes",
        ),
        (
            {"prompts": {"texts": ["a"]}, "curation": {"best": ["a b"]}},
            "curation.best.0: must be the name of a score: resolution, .*, got 'a b'",
        ),
        ({"prompts": {"texts": ["a"]}, "curation": {"licences": []}}, "`licences` is empty"),
        (
            {"prompts": {"texts": ["a"]}, "near_duplicates": {"keep_out": {"kind": "urls", "path": "x"}}},
            "near_duplicates.keep_out: there is no kind 'urls'; allowed: 'folder', 'hub'",
        ),
    ],
)
def test_a_mistake_in_an_entry(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogError, match=f"1 mistake.*\n  seed_datasets.logos.*{message}"):
        catalog.parse(with_entry(**entry), tmp_path / "c.yaml")


def test_what_is_wrong_with_the_defaults_as_a_whole_is_said_once(tmp_path: Path) -> None:
    entries: dict[str, Any] = {name: {"prompts": {"texts": ["x"]}} for name in ("a", "b", "c")}
    entries["c"]["clip"] = {"model": "hf-hub:org/model"}
    entries["c"]["retrieval"] = {"images_per_query": 3}
    defaults = {
        "clip": {"model": "ViT-L-14"},
        "retrieval": {"index": "room"},
        "download": {"allow_addresses": ["home"]},
    }
    with pytest.raises(CatalogError) as caught:
        catalog.parse({**GOOD, "defaults": defaults, "seed_datasets": entries}, tmp_path / "c.yaml")
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  defaults.download.allow_addresses",
        "  defaults.clip",
        "  defaults.retrieval.index",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a mapping with `seed_datasets:`, got nothing"),
        (b"a: [", "line 1.*cannot be read as YAML"),
        (
            b"seed_datasets:\n\tlogos: {}\n",
            r"line 2, column 1: YAML is indented with spaces, and there is a tab",
        ),
        (b"a: 1\nb: caf\xe9\n", r"line 2 is not UTF-8 \(the byte 0xe9\): save the file as UTF-8"),
        (b"a: 1\nb: \x07\n", r"line 2: the character U\+0007 may not stand in YAML"),
        (b"source: {path: shards/{000..012}.tar}\n", r"line 1, .*wants quotes around it"),
        (b"a: one: two\n", r"line 1, column 7: .*'a: one: two'; a text that holds any of : .* wants quotes"),
        (b"a: &x [*x]\n", "an alias stands within what it is an alias of"),
        (b"a: !!python/object:os.system {}\n", "line 1, .*could not determine a constructor"),
        (b"a: 2024-02-31\n", "cannot be read as YAML: day"),
        (b"a: 1\n---\nb: 2\n", "line 2, .*expected a single document"),
        (b"[" * 5_000, "cannot be read as YAML"),
    ],
)
def test_what_is_no_yaml(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(CatalogError, match=message) as caught:
        catalog.load(tmp_path / "c.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'c.yaml'}: ")


def test_keys_that_stand_twice_anywhere(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "defaults:\n  clip: &clip {model: ViT-L-14, pretrained: openai}\n"
        "indices: {laion: {kind: faiss, path: x}}\n"
        "seed_datasets:\n  a:\n    clip: {<<: *clip, model: ViT-B-32}\n    prompts:\n      texts: [x]\n      texts: [y]\n"
        "  a: {prompts: {texts: [z]}}\n"
    )
    with pytest.raises(CatalogError, match="2 mistake") as caught:
        catalog.load(tmp_path / "c.yaml")
    assert "  seed_datasets.a.prompts.texts: stands twice, in line 8 and in line 9" in str(caught.value)
    assert "  seed_datasets.a: stands twice, in line 5 and in line 10" in str(caught.value)


def test_aliases_merges_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "indices: {laion: {kind: faiss, path: x}}\n"
        "seed_datasets:\n  a: &a {prompts: {texts: [x]}, clip: &clip {model: ViT-L-14, pretrained: openai}}\n"
        "  b: {<<: *a, prompts: {texts: [y]}, clip: {<<: *clip, model: ViT-B-32}}\n  c: *a\n",
        encoding="utf-8-sig",
    )
    found = catalog.load(tmp_path / "c.yaml")
    assert [found.entry(name).clip.model for name in "abc"] == ["ViT-L-14", "ViT-B-32", "ViT-L-14"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="set SD_ASSETS_CATALOG to yours"):
        catalog.load(tmp_path / "none.yaml")
    with pytest.raises(CatalogError, match="cannot be read: Is a directory"):
        catalog.load(tmp_path)


def test_what_says_how_to_fetch_counts_for_a_list_of_urls_only(tmp_path: Path) -> None:
    def section(kind: str, **download: Any) -> dict[str, Any]:
        raw = with_entry(source={"kind": kind, "path": "x"}, download=download)
        return catalog.parse(raw, tmp_path / "c.yaml").sections("logos")["source"]

    assert section("urls", max_bytes=9) != section("urls", max_bytes=10)
    assert section("urls", image_size=9) == section("urls", image_size=10)
    assert section("parquet", max_bytes=9) == section("parquet", max_bytes=10)


def test_the_catalogue_that_ships_is_right() -> None:
    assert {"demo_rooms", "demo_prompts"} <= set(catalog.load().seed_datasets)


@pytest.mark.parametrize(
    ("text", "network", "port"),
    [
        ("127.0.0.1", "127.0.0.1/32", None),
        ("127.0.0.1:80", "127.0.0.1/32", 80),
        ("10.0.0.0/8", "10.0.0.0/8", None),
        ("[::1]:8000", "::1/128", 8000),
        ("[fd00::/8]", "fd00::/8", None),
        ("::1", "::1/128", None),
    ],
)
def test_allowed_addresses(text: str, network: str, port: int | None) -> None:
    assert parse_allowed_address(text) == (network, port)


@pytest.mark.parametrize(
    "secret",
    [
        "hunter2",
        "hf_" + 200 * "x",
        "ab\\cd-secret",
        "correct horse battery",
        "abcdefghijklmnop'qr-rest",
        "rooms",
    ],
)
def test_a_message_names_the_variable_and_not_its_value(
    secret: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_SECRET", secret)
    path = tmp_path / "catalog.yaml"
    path.write_text(
        "seed_datasets: {rooms: {prompts: {texts: [a]}, clip: {model: a, pretrained: b}, download: {quality: '${MY_SECRET}'}}}"
    )
    with pytest.raises(CatalogError) as caught:
        catalog.load(path)
    message = str(caught.value).partition(":\n")[2]
    assert "seed_datasets.rooms.download.quality: must be a whole number" in message
    assert "${MY_SECRET}" in message
    assert secret[:20] not in message.replace("seed_datasets.rooms.", "")


def test_a_captioner_that_is_neither_a_folder_nor_a_hub_id(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(
        "indices: {laion: {kind: faiss, path: x}}\n"
        "seed_datasets: {rooms: {prompts: {texts: [a]}, clip: {model: a, pretrained: b}, captioner: {model: models/my/blipp}}}"
    )
    with pytest.raises(
        CatalogError, match=r"rooms.captioner.model: there is no such folder, and a Hub id is org/model"
    ):
        catalog.load(path)
    (tmp_path / "models/my/blipp").mkdir(parents=True)
    assert catalog.load(path).entry("rooms").captioner.model == str(tmp_path / "models/my/blipp")


# --- blocked -----------------------------------------------------------------------------------------------------

_WHOLE = """
indices: {laion: {kind: faiss, path: x}}
seed_datasets: {rooms: {prompts: {texts: [a]}, clip: {model: a, pretrained: b}}}
"""


def blocked(tmp_path: Path, section: str) -> BlockedSettings:
    path = tmp_path / "catalog.yaml"
    path.write_text(f"{_WHOLE}blocked: {section}")
    return catalog.load(path).blocked


def test_what_is_blocked_is_read_from_the_catalogue_and_its_file(tmp_path: Path) -> None:
    image = 64 * "A"
    (tmp_path / "list.txt").write_text(
        f"\ufeff# taken down\r\n\r\nHTTP://A.example/x#y  # by mail\r\n  Evil.example.\r\n{image} # a hash\r\n",
        "utf-8",
    )
    found = blocked(tmp_path, "{urls: ['http://B.example'], hosts: [127.0.0.1], file: list.txt}")
    assert found.urls == ("http://b.example/", "http://a.example/x")
    assert found.hosts == ("127.0.0.1", "evil.example")
    assert found.images == (image.lower(),)
    assert not found.delete_older_versions
    assert found.list.url("https://www.evil.example/") and found.list.image(image)


def test_an_empty_list_is_none(tmp_path: Path) -> None:
    for section in ("", "{}", "{urls: []}", "{delete_older_versions: true}"):
        found = blocked(tmp_path, section)
        assert not found.list
        assert found.effects() == {}


def test_the_section_tells_how_much_is_blocked_and_not_what(tmp_path: Path) -> None:
    one = blocked(tmp_path, "{hosts: [evil.example], images: [%s]}" % (64 * "a")).effects()
    assert {name: one[name] for name in ("urls", "hosts", "images")} == {"urls": 0, "hosts": 1, "images": 1}
    assert "evil" not in str(one) and 64 * "a" not in str(one)
    assert one["digest"] != blocked(tmp_path, "{hosts: [evil.example]}").effects()["digest"]


def test_every_mistake_of_what_is_blocked_is_told(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"good.example\n{63 * 'a'}\n\n*.evil.example\nftp://x.example/\n")
    section = """
  urls: [evil.example/x, "http:///x", "http://fine.example/"]
  hosts: ["http://evil.example/x", "evil.example:80", "*.evil.example"]
  images: [abc, 1234]
  file: list.txt
  delete_older: true
"""
    with pytest.raises(CatalogError) as caught:
        blocked(tmp_path, section)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    expected = [
        r"blocked.urls.0: must be a URL with http:// or https:// and a host.*got 'evil.example/x'",
        r"blocked.urls.1: must be a URL .*got 'http:///x'",
        r"blocked.hosts.0: must be a host, and is a URL: that goes under `urls:`, got 'http://evil.example/x'",
        r"blocked.hosts.1: must be the name or address of a host, without scheme, port.*got 'evil.example:80'",
        r"blocked.hosts.2: .*it stands for its sub-domains, too.*got '\*.evil.example'",
        r"blocked.images.0: must be the sha256 .*64 hexadecimal digits; these are 3 characters, got 'abc'",
        r"blocked.images.1: must be a text, got 1234; YAML reads it as a number or a date: put quotes around it",
        r"blocked.delete_older: unknown field; allowed: .*did you mean 'delete_older_versions'\?",
        r"blocked.file: .*list.txt, line 2: must be the sha256 .*these are 63 characters",
        r"blocked.file: .*list.txt, line 4: must be the name or address of a host",
        r"blocked.file: .*list.txt, line 5: must be a URL with http:// or https://",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.match(pattern, line), line


def test_of_many_wrong_lines_some_are_told(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("not a host\n" * 100)
    with pytest.raises(CatalogError, match=r"line 20: .*\n.*list.txt, and 80 more lines$"):
        blocked(tmp_path, "{file: list.txt}")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("none.txt", "blocked.file: cannot be read: No such file or directory, got 'none.txt'"),
        ("latin.txt", r"blocked.file: .*latin.txt is not UTF-8 .*: save it as UTF-8"),
        ("${TAKEDOWNS}", "blocked.file is .*the environment variable TAKEDOWNS is not set"),
    ],
)
def test_a_list_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, file: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TAKEDOWNS", raising=False)
    (tmp_path / "latin.txt").write_bytes(b"b\xfccher.example\n")
    with pytest.raises(CatalogError, match=message):
        blocked(tmp_path, f"{{file: '{file}'}}")


def test_what_was_taken_down_has_no_limit(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(f"{_WHOLE}defaults: {{checks: {{max_failed: {{downloaded_images: {{blocked: 0.1}}}}}}}}")
    with pytest.raises(CatalogError, match="there is no error code of this name"):
        catalog.load(path)
