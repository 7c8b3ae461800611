"""The report as one HTML file with embedded style and pictures, without scripts and network access."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from ...errors import escaped
from .words import TEXTS, conventions, head, key_figures

COLUMNS = (  # key of a row, header, second line, format, which value is marked as best
    ("active", "codes", "in use", "d", None),
    ("perplexity", "perplexity", "", ".1f", None),
    ("pnmi", "PNMI", "phone information", ".3f", max),
    ("phone_purity", "phone", "purity", ".3f", max),
    ("cluster_purity", "cluster", "purity", ".3f", max),
    ("speaker_pnmi", "speaker", "information", ".3f", min),
    ("bit_rate", "bit rate", "bits/s", ".0f", None),
    ("run_bit_rate", "of runs", "bits/s", ".0f", None),
    ("unit_ms", "unit", "ms", ".0f", None),
    ("abx_within", "features’", "ABX within, %", ".2f", min),
    ("abx_across", "features’", "ABX across, %", ".2f", min),
    ("unit_abx_within", "units’", "ABX within, %", ".2f", min),
    ("unit_abx_across", "units’", "ABX across, %", ".2f", min),
)
GROUPS = (  # kinds of rows, heading; those of the model's own units follow
    (("mfcc", "fbank"), "k-means on the sound itself"),
    (("untrained",), "k-means on the layers of an untrained model"),
    (("layer",), "k-means on the layers of the trained model"),
    (("output",), "k-means on other outputs of the trained model"),
)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy: browsers load nothing from outside the page."""


class Picture(NamedTuple):
    """A PNG file; ``alt``: its description; ``wide``: as wide as the page; ``hidden``: folded away."""

    path: Path
    alt: str
    wide: bool = False
    hidden: bool = False


def page(figures: Mapping, pictures: Mapping[str, Sequence[Picture]]) -> str:
    """The HTML of the report.

    Args:
        figures: the content of ``figures.json`` as ``write_report`` writes it.
        pictures: section (a key of ``words.TEXTS``) -> its pictures, which are embedded.
    """
    title = f"{escape(figures['checkpoint'])}: what was learned"
    bodies = {key: gallery(images) for key, images in pictures.items() if images}
    bodies |= {"table": figures_table(figures), "conventions": bullets(conventions(figures))}
    notes = "".join(f"\n<p class=note>{escape(note)}</p>" for note in figures["notes"])
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{title}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>',
        f"<header>\n<h1>{title}</h1>\n<p>{escape(head(figures))}</p>{notes}\n</header>\n<main>",
        tiles(key_figures(figures)),
        *(section(key, bodies[key]) for key in TEXTS if key in bodies),
        "</main>\n</body>\n</html>",
    ]  # fmt: skip
    return escaped("\n".join(lines))


def section(key: str, body: str) -> str:
    title, text = TEXTS[key]
    return f'<section id="{key}">\n<h2>{title}</h2>\n' + (f"<p>{text}</p>\n" if text else "") + f"{body}\n</section>"


def tiles(key_figures: Sequence[tuple[str, str, str]]) -> str:
    boxes = "\n".join(
        f"<div class=tile><b>{value}</b><h3>{title}</h3><p>{escape(text, quote=False)}</p></div>"
        for title, value, text in key_figures
    )
    return f'<div class="tiles">\n{boxes}\n</div>'


def bullets(lines: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"


def gallery(pictures: Sequence[Picture]) -> str:
    shown = "\n".join(figure(picture) for picture in pictures if not picture.hidden)
    hidden = "\n".join(figure(picture) for picture in pictures if picture.hidden)
    more = f"<details><summary>the other codebooks</summary>\n{hidden}\n</details>" if hidden else ""
    return f'<div class="gallery">\n{shown}\n</div>\n{more}'


def figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    kind = "wide" if picture.wide else "small"
    return f'<figure class="{kind}"><img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}"></figure>'


# ---- the table -------------------------------------------------------------------------------------------------------


def figures_table(figures: Mapping) -> str:
    """The rows of ``Comparison.rows`` as an HTML table; columns without values are left out."""
    rows = figures["rows"]
    own_units = (((name,), codes["title"]) for name, codes in figures["model"]["code_sets"].items())
    columns = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    marked = {
        key: better(round_as(row[key], spec) for row in rows if row.get(key) is not None)
        for key, _, _, spec, better in columns
        if better
    }
    header = "".join(f"<th scope=col>{name}<br><small>{unit}</small></th>" for _, name, unit, _, _ in columns)
    lines = [f"<div class=table><table>\n<thead><tr><th scope=col>units of</th>{header}</tr></thead>"]
    for kinds, title in (*GROUPS, *own_units):
        group = [row for row in rows if row["kind"] in kinds]
        if group:
            lines.append(
                f'<tbody>\n<tr class=group><th colspan="{len(columns) + 1}" scope=rowgroup>{escape(title)}</th></tr>'
            )
            for row in group:
                cells = "".join(cell(row, column, marked) for column in columns)
                lines.append(f"<tr><th scope=row>{escape(row['name'])}</th>{cells}</tr>")
            lines.append("</tbody>")
    legend = "&#9733; best value of a column as displayed: the highest; the lowest for speaker information and ABX."
    return "\n".join([*lines, f"</table></div>\n<p>{legend}</p>"])


def cell(row: Mapping, column: tuple, marked: Mapping) -> str:
    key, _, _, spec, _ = column
    if row.get(key) is None:
        return "<td>-</td>"
    best = key in marked and round_as(row[key], spec) == marked[key]
    return f"<td class=best>&#9733;&nbsp;{row[key]:{spec}}</td>" if best else f"<td>{row[key]:{spec}}</td>"


def round_as(value: float, spec: str) -> float:
    return float(f"{value:{spec}}")


STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  margin: 0 auto; padding: 1rem; max-width: 72rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .3rem; border-top: 1px solid #ccc; padding-top: 1rem; }
p { max-width: 48rem; margin: .4rem 0; }
.note { border-left: 4px solid #D55E00; padding-left: .7rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; margin: 1.2rem 0; }
.tile { border: 1px solid #ccc; border-radius: .4rem; padding: .8rem 1rem; font-size: .92rem; }
.tile b { font-size: 1.9rem; line-height: 1.1; color: #0072B2; }
.tile h3 { font-size: 1rem; margin: .1rem 0 .4rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: .6rem 0; }
figure.wide { grid-column: 1 / -1; overflow-x: auto; }
img { display: block; width: 100%; height: auto; }
figure.small img { max-width: 36rem; }
figure.wide img { min-width: 50rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .2rem .42rem; text-align: right; }
tr > th:first-child { text-align: left; font-weight: normal; position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 2px solid #555; vertical-align: bottom; }
small { font-weight: normal; color: #555; }
tr.group th { padding-top: .7rem; font-weight: 600; border-bottom: 1px solid #ccc; }
td.best { font-weight: 700; }
summary { cursor: pointer; color: #0072B2; }
li { max-width: 52rem; margin: .3rem 0; }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  section, figure, .tile, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  figure.wide img { min-width: 0; }
  .gallery { grid-template-columns: 1fr 1fr; }
  table { font-size: 7.5pt; }
  th, td { padding: .1rem .25rem; }
}
"""
