"""The distributions of a table's numbers: similarities, sizes, lengths of captions, hits a query."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.schemas import TableSchema
from sd_assets.storage.table import Table
from sd_assets.views import svg
from sd_assets.views.markdown import code, picture
from sd_assets.views.markdown import table as markdown_table
from sd_assets.views.text import shortened

Numbers = npt.NDArray[np.float64]

# Columns of whole numbers that measure something. Those of fractions all do.
_UNITS = {
    "width": " (px)",
    "height": " (px)",
    "original_width": " (px)",
    "original_height": " (px)",
    "resolution": " (px)",
    "original_bytes": "",
}
_TEXTS = ("caption", "captions", "text", "prompt", "alt_text")
_SIDES = (("original_width", "original_height"), ("width", "height"))
_QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}

# So many rows say what all would: more are not read.
MAX_ROWS = 20_000
_MAX_MEASURES = 12

_WIDTH, _HEIGHT, _GAP = 288, 112, 24  # of a histogram, pixels
_COLUMNS = 3
_BARS = 32
_RED = "#c0392b"


@dataclass(frozen=True)
class _Measure:
    """Something that is measured of each row, perhaps several times: a name, the columns it needs, and how."""

    name: str
    columns: tuple[str, ...]
    of: Callable[[pa.RecordBatch], pa.Array]


def distributions(table: Table, schema: TableSchema) -> str | None:
    """Histograms, and the numbers as text: similarity and all other fractions, sizes, words of texts, entries of lists.

    Rows that failed do not count. Of a table of more than 20,000 rows a sample of shards is read, and of them only these columns.

    Args:
        table: to be read.
        schema: its own; keys and bookkeeping are not measured.

    Returns:
        Markdown; None if the table holds nothing of the kind.
    """
    part = table.thinned(MAX_ROWS)
    found = _measured(part, list(_measures(schema))[:_MAX_MEASURES])
    if not found:
        return None
    said = f"{part.num_rows:,} rows" + ("" if part is table else f", a sample of {table.num_rows:,}")
    # What is the same everywhere is said, not drawn.
    drawn = {name: values for name, values in found.items() if values.min() < values.max()}
    pictures = [picture(_drawn(drawn), "distributions")] if drawn else []
    header = ["", "n", *_QUANTILES]
    rows = [
        [code(name), f"{len(values):,}", *map(_number, np.quantile(values, list(_QUANTILES.values())))]
        for name, values in found.items()
    ]
    return "\n\n".join([said, *pictures, markdown_table(header, rows, numbers=range(1, len(header)))])


# --- what is measured --------------------------------------------------------------------------------------------


def _measures(schema: TableSchema) -> Iterator[_Measure]:
    fields = {name: schema.arrow.field(name) for name in schema.content if name not in (*schema.key, "error")}
    for name, field in fields.items():
        title = shortened(name, 40)
        if pa.types.is_floating(field.type):
            yield _Measure(title, (name,), _column(name))
        elif name in _UNITS and pa.types.is_integer(field.type):
            yield _Measure(f"{title}{_UNITS[name]}", (name,), _column(name))
        elif name in _TEXTS and (
            _is_text(field.type) or (_is_list(field.type) and _is_text(field.type.value_type))
        ):
            yield _Measure(f"{title} (words)", (name,), _words(name))
    for name, field in fields.items():
        # A list of numbers is a vector.
        if _is_list(field.type) and not pa.types.is_primitive(field.type.value_type):
            yield _Measure(f"{shortened(name, 40)} (a row)", (name,), _entries(name))
            struct = field.type.value_type
            if pa.types.is_struct(struct) and struct.get_field_index("similarity") >= 0:
                yield _Measure(f"similarity of {name}", (name,), _inside(name, "similarity"))
    sides = next((pair for pair in _SIDES if all(side in fields for side in pair)), None)
    if sides:
        yield _Measure("width / height", sides, _aspect(*sides))


def _column(name: str) -> Callable[[pa.RecordBatch], pa.Array]:
    return lambda rows: rows.column(name)


def _words(name: str) -> Callable[[pa.RecordBatch], pa.Array]:
    def of(rows: pa.RecordBatch) -> pa.Array:
        texts = rows.column(name)
        if _is_list(texts.type):
            texts = pc.list_flatten(texts)
        return pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts)))

    return of


def _entries(name: str) -> Callable[[pa.RecordBatch], pa.Array]:
    return lambda rows: pc.list_value_length(rows.column(name))


def _inside(name: str, field: str) -> Callable[[pa.RecordBatch], pa.Array]:
    return lambda rows: pc.struct_field(pc.list_flatten(rows.column(name)), field)


def _aspect(width: str, height: str) -> Callable[[pa.RecordBatch], pa.Array]:
    return lambda rows: pc.divide(rows.column(width).cast(pa.float64()), rows.column(height))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _measured(table: Table, measures: Sequence[_Measure]) -> dict[str, Numbers]:
    """All numbers by measure, without those that are null, NaN or infinite; measures that have none are left out."""
    parts: dict[str, list[Numbers]] = {measure.name: [] for measure in measures}
    columns = sorted({name for measure in measures for name in measure.columns})
    for batch in table.batches([*columns, "error"]) if columns else ():
        batch = batch.filter(batch.column("error").is_null())
        for measure in measures:
            values = pc.drop_null(measure.of(batch)).to_numpy(zero_copy_only=False).astype(np.float64)
            parts[measure.name].append(values[np.isfinite(values)])
    joined = {name: np.concatenate(values) for name, values in parts.items() if values}
    return {name: values for name, values in joined.items() if len(values)}


# --- drawing -----------------------------------------------------------------------------------------------------


def _drawn(found: dict[str, Numbers]) -> str:
    columns = min(_COLUMNS, len(found))
    panel_height = _HEIGHT + 56
    body = [
        _histogram(
            name, values, _GAP + (number % columns) * (_WIDTH + _GAP), (number // columns) * panel_height + 28
        )
        for number, (name, values) in enumerate(found.items())
    ]
    return svg.document(_GAP + columns * (_WIDTH + _GAP), -(-len(found) // columns) * panel_height + 4, body)


def _histogram(name: str, values: Numbers, x: int, y: int) -> str:
    low, high, edges, counts = _binned(values)
    bar = _WIDTH / len(counts)
    # One outline for all bars, in tenths of a pixel.
    outline = "".join(
        f"V{y + _HEIGHT - height:.1f}h{bar:.2f}" for height in (counts / counts.max() * _HEIGHT).tolist()
    )
    median = float(np.median(values))
    median_x = x + _WIDTH * (median - edges[0]) / (edges[-1] - edges[0])
    bottom, right = y + _HEIGHT, x + _WIDTH
    least = f"{'≤ ' if values.min() < low else ''}{_number(low)}"
    most = f"{'≥ ' if values.max() > high else ''}{_number(high)}"
    return "".join(
        [
            svg.text(x, y - 8, name, font_weight="bold"),
            svg.text(right, y - 8, f"n = {len(values):,}", text_anchor="end", fill=svg.FAINT),
            f'<path d="M{x} {bottom}{outline}V{bottom}z" fill="#7c9cc6"/>',
            f'<path d="M{x} {bottom}h{_WIDTH}" stroke="{svg.FAINT}"/>',
            f'<path d="M{median_x:.1f} {y}V{bottom}" stroke="{_RED}" stroke-dasharray="3 2"/>',
            svg.text(x, bottom + 16, least, fill=svg.FAINT),
            svg.text(
                x + _WIDTH / 2, bottom + 16, f"median {_number(median)}", text_anchor="middle", fill=_RED
            ),
            svg.text(right, bottom + 16, most, text_anchor="end", fill=svg.FAINT),
        ]
    )


def _binned(values: Numbers) -> tuple[float, float, Numbers, npt.NDArray[np.int64]]:
    """The least and the most that is shown, the edges of the bins, and how many are in each.

    What lies far out is counted in the outermost bin, so that it leaves room for the others.
    """
    low, high = np.quantile(values, [0.025, 0.975])
    span = high - low or np.inf
    low, high = max(values.min(), low - span), min(values.max(), high + span)
    if np.array_equal(values, np.rint(values)):
        # All bins take the same number of whole numbers, or the bars would be a comb.
        low, high = np.floor(low), np.ceil(high)
        step = np.ceil((high - low + 1) / _BARS)
        edges = np.arange(low - 0.5, high + step, step)
    else:
        edges = np.linspace(low, high, _BARS + 1)
    return float(low), float(high), edges, np.histogram(np.clip(values, low, high), edges)[0]


def _number(value: float) -> str:
    """Three digits, but whole numbers and those from 100 on in full, within reason."""
    in_full = abs(value) < 1e12 and (value == round(value) or abs(value) >= 100)
    return f"{value:,.0f}" if in_full else f"{value:.3g}"
