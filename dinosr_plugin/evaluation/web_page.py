"""Web pages in one file, with embedded style and pictures, without scripts and network access."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from ..errors import escaped

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy: browsers load nothing from outside the page."""


class Picture(NamedTuple):
    """A PNG file; ``alt``: its description; ``wide``: as wide as the page; ``hidden``: folded away."""

    path: Path
    alt: str
    wide: bool = False
    hidden: bool = False


class Section(NamedTuple):
    """``key``: its id; ``title`` and ``text``, which may be empty, and ``body`` are HTML."""

    key: str
    title: str
    text: str
    body: str


def web_page(
    title: str,
    head: str,
    notes: Sequence[str],
    key_figures: Sequence[tuple[str, str, str]],
    sections: Sequence[Section],
) -> str:
    """The HTML of a page. ``title``, ``head`` and ``notes`` are text; ``key_figures``: as ``tiles``."""
    note_lines = "".join(f"\n<p class=note>{escape(note)}</p>" for note in notes)
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>',
        f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(head)}</p>{note_lines}\n</header>\n<main>",
        tiles(key_figures),
        *map(section, sections),
        "</main>\n</body>\n</html>",
    ]  # fmt: skip
    return escaped("\n".join(lines))


def section(one: Section) -> str:
    text = f"<p>{one.text}</p>\n" if one.text else ""
    return f'<section id="{one.key}">\n<h2>{one.title}</h2>\n{text}{one.body}\n</section>'


def tiles(key_figures: Sequence[tuple[str, str, str]]) -> str:
    """(title, value, text): the first two are HTML, the third is text."""
    boxes = "\n".join(
        f"<div class=tile><b>{value}</b><h3>{title}</h3><p>{escape(text, quote=False)}</p></div>"
        for title, value, text in key_figures
    )
    return f'<div class="tiles">\n{boxes}\n</div>'


def bullets(lines: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"


def gallery(pictures: Sequence[Picture], more: str = "more") -> str:
    """``more``: HTML, the name of what is folded away."""
    shown = "\n".join(figure(picture) for picture in pictures if not picture.hidden)
    hidden = "\n".join(figure(picture) for picture in pictures if picture.hidden)
    folded = f"<details><summary>{more}</summary>\n{hidden}\n</details>" if hidden else ""
    return f'<div class="gallery">\n{shown}\n</div>\n{folded}'


def figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    kind = "wide" if picture.wide else "small"
    return f'<figure class="{kind}"><img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}"></figure>'


STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  margin: 0 auto; padding: 1rem; max-width: 80rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .3rem; border-top: 1px solid #ccc; padding-top: 1rem; }
p { max-width: 48rem; margin: .4rem 0; }
.note { border-left: 4px solid #D55E00; padding-left: .7rem; }
.tiles { display: grid; gap: 1rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
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
