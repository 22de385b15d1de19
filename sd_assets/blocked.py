"""What was taken down: URLs, hosts and images that no table may hold any more (`blocked:` of the catalogue).

Two URLs are the same if the downloader would send the same request for both: the scheme and the host in lower case, the
host in punycode, percent-encoding as RFC 3986 has it, no `.` and `..` in the path; no user, default port or fragment. All
else counts, http or https, too. A host stands for its sub-domains as well. An image is known by the sha256 of its bytes as
they came, the `image_id` of our tables.

Where something was left out, a row may have to say why, so that it is not asked for again, and is once it comes off the
list. It then names the entry of the list by its fingerprint (see `Blocked.entry`), which tells nobody what was blocked.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# The host of anything that is like a URL, for Python and Arrow (RE2) alike.
_HOST = r"^\s*[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:\\\s]*)"
_HAS_HOST = re.compile(_HOST)
# What an `error_detail` or a note may quote of a URL or a host.
_QUOTED = re.compile(r"[^\s'\"<>]+")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")

# Columns of any table that may hold something blocked, on their own or as fields of the structs in `hits`.
URL_COLUMNS = ("url", "source", "redirected_to")
ID_COLUMNS = ("image_id", "query_id", "sha256", "query_ids", "cluster", "nearest")
# Images of other partitions: `partition/image_id`.
_ELSEWHERE = "elsewhere"
_HITS = "hits"
_QUOTING = "error_detail"

Mask = npt.NDArray[np.bool_]


class Blocked:
    """The list, ready to be asked.

    Args:
        urls: as `normal_url` writes them.
        hosts: as `normal_host` writes them.
        images: sha256, in lower case.
        image_entries: images that go with URLs of the list, by what `entry` makes of their sha256; only `rows` knows them.

    Attributes:
        digest: changes with the list.
    """

    def __init__(
        self,
        urls: Iterable[str] = (),
        hosts: Iterable[str] = (),
        images: Iterable[str] = (),
        image_entries: Iterable[str] = (),
    ) -> None:
        self._urls = frozenset(urls)
        self._hosts = frozenset(hosts)
        self._images = frozenset(images)
        self._image_entries = frozenset(image_entries)
        parts = ("\n".join(sorted(part)) for part in (self._urls, self._hosts, self._images))
        self.digest = hashlib.sha256("\n\n".join(parts).encode()).hexdigest()

    def __bool__(self) -> bool:
        return bool(self._urls or self._hosts or self._images)

    def with_images(self, image_entries: Iterable[str]) -> "Blocked":
        """The list, and images that go with its URLs."""
        return Blocked(self._urls, self._hosts, self._images, image_entries)

    # --- one thing at a time -------------------------------------------------------------------------------------

    def url(self, url: str | None) -> str | None:
        """The entry that a URL is on the list by, its own or that of its host; None if it is not."""
        found = _HAS_HOST.match(url) if url and (self._hosts or self._urls) else None
        if found is None or url is None:
            return None
        host = self.host(found["host"])
        if host is not None:
            return host
        if normal_host(found["host"]) not in self._url_hosts:
            return None
        normal = normal_url(url)
        return entry(normal) if normal in self._urls else None

    def host(self, host: str) -> str | None:
        """The entry that a host is on the list by, its own or that of one that it is a sub-domain of."""
        if not self._hosts:
            return None
        name = normal_host(host)
        while name:
            if name in self._hosts:
                return entry(name)
            if ":" in name or name[-1].isdigit():  # an address has no sub-domains
                return None
            name = name.partition(".")[2]
        return None

    def image(self, sha256: str | None) -> str | None:
        """The entry that an image is on the list by."""
        return entry(sha256.lower()) if sha256 is not None and sha256.lower() in self._images else None

    def text(self, text: str | None) -> bool:
        """Whether a text for a person quotes a URL, a host or an image of the list."""
        return bool(text and self) and any(map(self._quotes, _QUOTED.findall(text or "")))

    def still(self, entries: Sequence[str] | None) -> bool:
        """Whether all these entries (none, if None) are on the list still."""
        return all(name in self._entries for name in entries or ())

    def _quotes(self, word: str) -> bool:
        word = word.strip("()[]{},;:").rstrip(".")
        if "://" in word:
            return self.url(word) is not None
        return self.image(word) is not None or ("." in word and self.host(word.partition(":")[0]) is not None)

    # --- tables --------------------------------------------------------------------------------------------------

    def columns(self, schema: pa.Schema) -> list[str]:
        """Those of a table that `rows` looks at."""
        wanted = (*URL_COLUMNS, *ID_COLUMNS, _ELSEWHERE, _HITS, _QUOTING)
        return [field.name for field in schema if field.name in wanted and _readable(field)]

    def rows(self, batch: pa.RecordBatch) -> Mask:
        """For each row whether it holds something blocked, in whichever columns it has (see `columns`)."""
        held = np.zeros(len(batch), np.bool_)
        if not self:
            return held
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if field.name in (*URL_COLUMNS, *ID_COLUMNS) and _is_text(field.type):
                held |= self._values(field.name, column)
            elif field.name in ID_COLUMNS and _is_list(field.type) and _is_text(field.type.value_type):
                held |= _in_lists(column, self._ids(column.flatten()))
            elif field.name == _ELSEWHERE and _is_list(field.type) and _is_text(field.type.value_type):
                ids = pc.replace_substring_regex(column.flatten(), ".*/", "")
                held |= _in_lists(column, self._ids(ids))
            elif field.name == _HITS and _is_list(field.type) and pa.types.is_struct(field.type.value_type):
                held |= _in_lists(column, self.hits(column.flatten()))
            elif field.name == _QUOTING and _is_text(field.type):
                held |= self._details(column)
        return held

    def hits(self, hits: pa.StructArray) -> Mask:
        """For each hit whether its URL, its image or its query is blocked."""
        held = np.zeros(len(hits), np.bool_)
        for place, field in enumerate(hits.type):
            if field.name in (*URL_COLUMNS, *ID_COLUMNS) and _is_text(field.type):
                held |= self._values(field.name, hits.field(place))
        return held

    def _values(self, name: str, column: pa.Array) -> Mask:
        return self.urls(column) if name in URL_COLUMNS else self._ids(column)

    def urls(self, column: pa.Array) -> Mask:
        """For each text whether it is a URL on the list."""
        held = np.zeros(len(column), np.bool_)
        if not (self._hosts or self._urls) or not len(column):
            return held
        # A table has far fewer hosts than URLs, and most URLs need not be taken apart.
        hosts = pc.struct_field(pc.extract_regex(column.cast(pa.string()), _HOST), "host").dictionary_encode()
        names = [name or "" for name in hosts.dictionary.to_pylist()]
        by_host = np.array([self.host(name) is not None for name in names], np.bool_)
        perhaps = np.array([normal_host(name) in self._url_hosts for name in names], np.bool_)
        known = np.flatnonzero(hosts.indices.is_valid())
        places = np.asarray(hosts.indices.drop_null())
        if len(known):
            held[known] = by_host[places]
            for row in known[perhaps[places] & ~by_host[places]]:
                held[row] = self.url(column[int(row)].as_py()) is not None
        return held

    def _ids(self, column: pa.Array) -> Mask:
        held = np.zeros(len(column), np.bool_)
        if self._images:
            held |= np.asarray(pc.is_in(pc.utf8_lower(column.cast(pa.string())), self._image_set))
        if self._image_entries:
            listed = (
                value is not None and entry(value) in self._image_entries for value in column.to_pylist()
            )
            held |= np.fromiter(listed, np.bool_, len(column))  # of none, too
        return held

    def _details(self, column: pa.Array) -> Mask:
        texts = column.to_pylist() if column.null_count < len(column) else [None] * len(column)
        return np.array([self.text(text) for text in texts], np.bool_)

    @cached_property
    def _url_hosts(self) -> frozenset[str | None]:
        """The hosts of the URLs on the list: of any other no URL need be taken apart."""
        hosts = (found["host"] for url in self._urls if (found := _HAS_HOST.match(url)))
        return frozenset(map(normal_host, hosts)) - {None}

    @cached_property
    def _image_set(self) -> pa.Array:
        return pa.array(sorted(self._images), pa.string())

    @cached_property
    def _entries(self) -> frozenset[str]:
        return frozenset(entry(text) for part in (self._urls, self._hosts, self._images) for text in part)


NOTHING = Blocked()

# In place of an `error_detail` that quotes something of the list.
BLANKED = "what was said here names something on the list `blocked:` of the catalogue"


def entry(text: str) -> str:
    """What stands for an entry of the list where the entry itself must not stand."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=65_536)
def normal_host(text: str) -> str | None:
    """A host's name in lower case and punycode, without a dot at its end; an address in its usual spelling.

    None if it is neither.
    """
    # Here: who only reads an empty list needs neither.
    from yarl import URL

    from sd_assets.download.addresses import literal_address

    name = text.strip().strip("[]")
    try:
        address = literal_address(name)
        if address is not None:
            return str(address)
        name = (URL.build(scheme="http", host=name).raw_host or "").rstrip(".").lower()
    except ValueError:
        return None
    return name if name and len(name) <= 253 and all(map(_LABEL.fullmatch, name.split("."))) else None


def host_of(url: str | None) -> str | None:
    """The host of a URL as it is written there, in lower case; None if there is none."""
    try:
        return urlsplit(url or "").hostname
    except ValueError:  # half of an IPv6 address
        return None


def normal_url(text: str) -> str | None:
    """A URL as the module says that they are compared; None if it is none of http or https, or has no host."""
    from yarl import URL

    try:
        url = URL(text.strip())
        host = normal_host(url.raw_host or "")
        if url.scheme not in ("http", "https") or host is None:
            return None
        return f"{url.with_host(host).origin()}{url.raw_path_qs}"
    except (ValueError, IndexError):  # yarl, of `http://[::1]@/`
        return None


def normal_image(text: str) -> str | None:
    """A sha256 in lower case; None if it is none."""
    return text.strip().lower() if re.fullmatch(r"\s*[0-9A-Fa-f]{64}\s*", text) else None


def texts_in(value: object) -> Iterator[str]:
    """All texts in what JSON can say, names of fields among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from (str(name), *texts_in(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)


def _in_lists(lists: pa.ListArray, held: Mask) -> Mask:
    """For each list whether one of its values, flattened, is held."""
    found = np.zeros(len(lists), np.bool_)
    if held.any():
        found[np.asarray(pc.list_parent_indices(lists))[held]] = True
    return found


def _readable(field: pa.Field) -> bool:
    return _is_text(field.type) or _is_list(field.type)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
