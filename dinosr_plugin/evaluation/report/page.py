"""The HTML of the report."""

from collections.abc import Mapping, Sequence
from html import escape

from ..web_page import Picture, Section, bullets, gallery, web_page
from .words import conventions, head, key_figures, texts

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


def page(figures: Mapping, pictures: Mapping[str, Sequence[Picture]]) -> str:
    """The HTML of the report.

    Args:
        figures: the content of ``figures.json`` as ``write_report`` writes it.
        pictures: section (a key of ``words.TEXTS``) -> its pictures, which are embedded.
    """
    bodies = {key: gallery(images, "the other codebooks") for key, images in pictures.items() if images}
    bodies |= {"table": figures_table(figures), "conventions": bullets(conventions(figures))}
    sections = [
        Section(key, title, text, bodies[key]) for key, (title, text) in texts(figures).items() if key in bodies
    ]
    title = f"{figures['checkpoint']}: what was learned"
    return web_page(title, head(figures), figures["notes"], key_figures(figures), sections)


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
