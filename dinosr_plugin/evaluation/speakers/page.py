"""The HTML of the page about a speaker model, and its texts."""

from collections.abc import Mapping, Sequence
from html import escape

from ..measures.verification import CONFIDENCE
from ..web_page import Picture, Section, bullets, gallery, web_page
from .verification import COLUMNS, Verification

TEXTS = {  # section -> title, text under it
    "verification": (
        "Verification",
        "The score of a trial is the cosine of the embeddings of two recordings. EER: the error rate at the threshold "
        "where as many trials of the same speaker are rejected as trials of different speakers are accepted. minDCF: "
        "the cost of errors at the best threshold, where this share of the trials is of the same speaker; 1 is the "
        "cost of the better constant answer.",
    ),
    "epochs": (
        "Verification over the training",
        "The same trials with the checkpoint of each epoch. Bands are the intervals.",
    ),
    "labels": (
        "The pseudo-labels",
        "Labels after each epoch; those of epoch 0 are the first ones. A training that works moves the number of "
        "clusters towards that of the speakers, and NMI and accuracy up, until few labels change. Speakers are those "
        "that the folders of the manifest name; the training does not see them.",
    ),
    "map": ("A map of recordings", ""),
    "conventions": ("How it was measured", ""),
}
MAP_TEXTS = {  # method -> text
    "t-SNE": "t-SNE (scikit-learn) places recordings with similar embeddings next to each other. Only neighbourhoods "
    "can be interpreted: distances between far groups, their sizes and directions mean little.",
    "PCA": "PCA: the two directions along which the embeddings vary most. With scikit-learn the map is made by t-SNE, "
    "which separates speakers better, if the embeddings differ in at least two directions.",
}


def speaker_page(figures: Mapping, verification: Verification, pictures: Mapping[str, Sequence[Picture]]) -> str:
    """The HTML.

    Args:
        figures: as ``report.write_speaker_report`` writes them.
        verification: the figures of the trial list.
        pictures: section (a key of ``TEXTS``) -> its pictures, which are embedded.
    """
    bodies = {key: gallery(images) for key, images in pictures.items() if images}
    bodies["verification"] = table(verification) + bodies["verification"]
    bodies["conventions"] = bullets(conventions(figures, verification))
    texts = TEXTS | {"map": (TEXTS["map"][0], map_text(figures["map"]))}
    sections = [Section(key, *texts[key], bodies[key]) for key in texts if key in bodies]
    title = f"{figures['embeddings']}: speaker verification"
    return web_page(title, head(figures), figures["notes"], key_figures(figures, verification), sections)


def table(verification: Verification) -> str:
    keys = [column.key for column in COLUMNS]
    header = "".join(f"<th scope=col>{escape(column.header)}</th>" for column in COLUMNS)
    lines = [f"<div class=table><table>\n<thead><tr>{header}</tr></thead>\n<tbody>"]
    for row in verification.rows():
        first, *cells = (escape(row[key] or "-") for key in keys)
        lines.append(f"<tr><th scope=row>{first}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return "\n".join([*lines, "</tbody>\n</table></div>\n"])


def head(figures: Mapping) -> str:
    """What was measured on what."""
    speakers = f" of {figures['speakers']:,} speakers" if figures["speakers"] else ""
    return (
        f"{figures['recordings']:,} recordings or parts{speakers}, embeddings of {model_of(figures['source'])} "
        f"({figures['width']} dimensions). Trials: {figures['trials']}, "
        f"{figures['verification']['targets']:,} of the same speaker and {figures['verification']['nontargets']:,} of "
        "different speakers."
    )


def model_of(source: Mapping) -> str:
    if "checkpoint" not in source:
        return "MFCC" if source.get("features") == "mfcc" else "unknown origin"
    return f"{source['checkpoint']}" + (f", layer {source['layer']}" if "layer" in source else "")


def key_figures(figures: Mapping, verification: Verification) -> list[tuple[str, str, str]]:
    """(title, figure, its meaning)."""
    meanings = {
        "eer": "Share of wrong answers where both kinds of errors are equally frequent; chance is 50 %.",
        "min_dcf_0.01": "Cost of errors if 1 % of the trials are of the same speaker; 1 is the cost of a constant.",
        "min_dcf_0.05": "Cost of errors if 5 % of the trials are of the same speaker; 1 is the cost of a constant.",
    }
    tiles = []
    for key, row in zip(verification.figures, verification.rows()):
        interval = f" {100 * CONFIDENCE:g} % interval: {row['interval']}." if row["interval"] else ""
        tiles.append((escape(f"{row['figure']}"), f"{row['value']}", meanings[key] + interval))
    if labels := figures.get("labels"):
        first, last = labels[0], labels[-1]
        text = (
            f"Clusters of the pseudo-labels after epoch {last['epoch']}; at first {first['clusters']:,}. The manifest "
            f"has {last['speakers']:,} speakers."
        )
        tiles.append(("clusters in use", f"{last['clusters']:,}", text))
        text = f"Agreement of these labels with the speakers, from 0 to 1; at first {first['nmi']:.3f}."
        tiles.append(("NMI of the labels", f"{last['nmi']:.3f}", text))
    return tiles


def map_text(figures: Mapping) -> str:
    coloured = "Colours show speakers, by the folders of the recordings" if figures["speakers"] else ""
    few = "; at most the seven with the most recordings, the others are grey" if figures["speakers"] > 7 else ""
    return MAP_TEXTS[figures["method"]] + (f" {coloured}{few}." if coloured else "")


def conventions(figures: Mapping, verification: Verification) -> list[str]:
    """How it was measured, for readers who want to compare."""
    lines = [
        f"{verification.describe()}.",
        "Trials with equal scores are accepted or rejected together. EER: rates are interpolated linearly between two "
        "thresholds. minDCF is divided by min(p, 1 - p), as NIST's; SpeechBrain's is not.",
        f"The map shows {figures['map']['recordings']:,} recordings, with equal numbers of each speaker as far as "
        "possible.",
    ]
    if figures.get("labels"):
        lines += [
            "NMI: mutual information of labels and speakers over the mean of their entropies. Accuracy: share of the "
            "recordings whose cluster is matched to their speaker, one to one, by the best matching. Purity: mean over "
            "clusters, each with the same weight, of the share of its most frequent speaker; many small clusters raise "
            "it.",
            "Changed labels: share of the recordings with another label than after the epoch before. Mean weight, from "
            "the log: of the probabilities that labels are right, with which recordings count in the loss.",
        ]
    return lines
