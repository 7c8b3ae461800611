"""Reads the HTML pages that the package writes."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Parses the page: all tags must be closed in order; collects pictures, links and the rows of the table."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.images, self.links, self.tags, self.sections = [], [], [], set(), []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.links += [attrs[name] for name in ("src", "href", "action", "data", "srcset") if name in attrs]
        self.sections += [attrs["id"]] if tag == "section" else []
        if tag == "img":
            self.images.append(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text
