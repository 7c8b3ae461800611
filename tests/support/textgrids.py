"""TextGrid files, as Praat writes them, in the long and in the short text format."""

from collections.abc import Mapping, Sequence

Tiers = Mapping[str, Sequence[tuple]] | Sequence[tuple[str, Sequence[tuple]]]


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def named(tiers: Tiers) -> list[tuple[str, Sequence[tuple]]]:
    return list(tiers.items() if isinstance(tiers, Mapping) else tiers)


def short_textgrid(tiers: Tiers, end: float) -> str:
    """``tiers``: name -> (start, end, label) of each interval, or pairs of these; from 0 to ``end`` seconds."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", f"{end}", "<exists>"]
    lines.append(str(len(tiers)))
    for name, intervals in named(tiers):
        lines += ['"IntervalTier"', quoted(name), "0", f"{end}", str(len(intervals))]
        for start, stop, label in intervals:
            lines += [f"{start}", f"{stop}", quoted(label)]
    return "\n".join(lines) + "\n"


def long_textgrid(tiers: Tiers, end: float) -> str:
    """As ``short_textgrid``."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {end} "]
    lines += ["tiers? <exists> ", f"size = {len(tiers)} ", "item []: "]
    for number, (name, intervals) in enumerate(named(tiers), 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier" ', f"        name = {quoted(name)} "]
        lines += ["        xmin = 0 ", f"        xmax = {end} ", f"        intervals: size = {len(intervals)} "]
        for i, (start, stop, label) in enumerate(intervals, 1):
            lines += [f"        intervals [{i}]:", f"            xmin = {start} ", f"            xmax = {stop} "]
            lines += [f"            text = {quoted(label)} "]
    return "\n".join(lines) + "\n"
