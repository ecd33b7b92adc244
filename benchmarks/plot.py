"""How do the figures look? Bars in SVG, readable on light and dark pages."""

from collections.abc import Sequence
from html import escape

from harness import OURS, RESULTS

WIDTH, LABELS, VALUES, BAR, GAP, TOP = 720, 200, 60, 11, 8, 58

STYLE = """\
text { font: 11px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 14px; font-weight: 600 }
.ours { font-weight: 700 }
.first { fill: #0969da }
.second { fill: #a8b4c0 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .first { fill: #58a6ff }
  .second { fill: #6e7a86 }
}"""


def bars(name: str, title: str, rows: Sequence[tuple[str, Sequence[float]]], series: Sequence[str]) -> None:
    """Draws ``rows`` with two bars each, one for either of ``series``, and keeps them as ``results/<name>.svg``."""
    scale = (WIDTH - LABELS - VALUES) / max(max(values) for _, values in rows)
    height = TOP + len(rows) * (2 * BAR + GAP) + GAP
    drawn = [f'<text class="title" x="10" y="20">{escape(title)}</text>']
    for kind, x, label in (("first", LABELS, series[0]), ("second", LABELS + 170, series[1])):
        drawn.append(f'<rect class="{kind}" x="{x}" y="31" width="{BAR}" height="{BAR}"/>')
        drawn.append(f'<text x="{x + 14}" y="40">{escape(label)}</text>')
    for number, (label, values) in enumerate(rows):
        y = TOP + number * (2 * BAR + GAP)
        style = ' class="ours"' if label == OURS else ""
        drawn.append(f'<text{style} x="{LABELS - 10}" y="{y + BAR + 4}" text-anchor="end">{escape(label)}</text>')
        for kind, value, top in zip(("first", "second"), values, (y, y + BAR), strict=True):
            width = value * scale
            drawn.append(f'<rect class="{kind}" x="{LABELS}" y="{top}" width="{width:.1f}" height="{BAR - 1}"/>')
            drawn.append(f'<text{style} x="{LABELS + width + 5:.1f}" y="{top + BAR}">{value:.3g}</text>')
    RESULTS.mkdir(exist_ok=True)
    body = "\n".join(drawn)
    (RESULTS / f"{name}.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n{body}\n</svg>\n",
        encoding="utf-8",
    )
