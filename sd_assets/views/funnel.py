"""What became of the pairs: how many each reason is against, and how many are left after it."""

from sd_assets.curation.funnel import Funnel
from sd_assets.views import svg
from sd_assets.views.markdown import code, picture
from sd_assets.views.markdown import table as markdown_table
from sd_assets.views.text import shortened

_WIDTH, _ROW, _LABEL = 420, 22, 190  # pixels
_LEFT, _LOST = "#7c9cc6", "#e3b7b0"


def funnel_view(found: Funnel) -> str:
    """A funnel as Markdown: a picture, and its numbers."""
    splits = ", ".join(f"{split} {count:,}" for split, count in found.splits.items())
    said = f"{found.kept:,} of {found.pairs:,} pairs are kept" + (f": {splits}" if splits else "")
    if not found.steps:
        return said
    header = ["reason", "against", "alone against", "lost here", "left"]
    rows = [
        [code(step.reason), *(f"{count:,}" for count in (step.against, step.alone, step.lost, step.left))]
        for step in found.steps
    ]
    return "\n\n".join([said, picture(_drawn(found), "funnel"), markdown_table(header, rows, range(1, 5))])


def _drawn(found: Funnel) -> str:
    bars = [("all pairs", 0, found.pairs), *((step.reason, step.lost, step.left) for step in found.steps)]
    scale = _WIDTH / max(found.pairs, 1)
    body = []
    for number, (name, lost, left) in enumerate(bars):
        y = 8 + number * _ROW
        body += [
            svg.text(_LABEL - 8, y + 14, shortened(name, 28), text_anchor="end"),
            f'<path d="M{_LABEL} {y}h{left * scale:.1f}v{_ROW - 4}h{-left * scale:.1f}z" fill="{_LEFT}"/>',
            f'<path d="M{_LABEL + left * scale:.1f} {y}h{lost * scale:.1f}v{_ROW - 4}h{-lost * scale:.1f}z" fill="{_LOST}"/>',
            svg.text(_LABEL + (left + lost) * scale + 6, y + 14, f"{left:,}", fill=svg.FAINT),
        ]
    return svg.document(_LABEL + _WIDTH + 90, 12 + len(bars) * _ROW, body)
