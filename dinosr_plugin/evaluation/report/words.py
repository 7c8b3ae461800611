"""What the report says in words: the text of every section, the figures that matter most beside their baselines, how it was measured."""

from collections.abc import Callable, Mapping, Sequence

TEXTS = {  # section -> title, text under it
    "layers": (
        "Where the information lies",
        "Each layer of the trained model, cut into units by k-means, against the same model with random weights and against plain acoustic features. "
        "A trained layer that is no better than these has learned nothing that the sound does not tell anyway. "
        "Codebooks and heads stand at the layer whose output they cluster. They are units and nothing else, so that their ABX errors compare with those of k-means units.",
    ),
    "table": ("All figures", ""),
    "meaning": (
        "What the codes mean",
        "Each column is one code, each row one phone: the darker, the larger the share of the code's frames that fall on the phone. "
        "One dark cell in a column: the code stands for one phone. A dark block: it stands for a class of similar phones.",
    ),
    "example": (
        "What units look like",
        "A stretch from the middle of an utterance. The units come from sound alone; the phones were aligned to the words and are shown for comparison only. "
        "Numbers are names of units, and mean something within their codebook only.",
    ),
    "durations": (
        "How long units last",
        "A unit lasts from its first frame to the next change. Longer ones than the axis holds are counted in the last bar.",
    ),
    "map": (
        "A map of frames",
        "t-SNE puts frames with similar features side by side; phones and speakers have about equal parts in the sample (of more than seven speakers, the seven with the most "
        "speech). Only neighbourhoods can be read from it: distances between far groups, their sizes and the directions mean little. Where speakers mix and phones do not, the layer holds what is said rather than who says it.",
    ),
    "training": (
        "The training",
        "The loss should fall below the entropy of the codes: what a guess costs that only knows how frequent each code is. "
        "A loss that falls together with the entropy is no success but a collapse of the codes.",
    ),
    "use": (
        "Use of the codebooks",
        "Curves that sink towards 0 show a collapse onto few codes, which the loss does not show. Codes that are never used are missing on the right of the last picture.",
    ),
    "conventions": ("How it was measured", ""),
}


def head(figures: Mapping) -> str:
    """What was measured on what."""
    model, speech, fitted = figures["model"], figures["measured_on"], figures["fitted_on"]
    codebooks = (
        f"{model['codebooks']} codebooks of {model['codebook_size']} codes" if model["codebooks"] else "no codebooks"
    )
    layers = (
        f"{model['layers']} Transformer layers of {model['width']} ({model['parameters'] / 1e6:.1f} million parameters)"
    )
    trained = "" if figures["updates"] is None else f" after {figures['updates']:,} updates"
    return (
        f"{model['name']}{trained}: {layers}, {codebooks}. "
        f"Measured on {speech['hours']:.2f} hours by {count(speech['speakers'], 'speaker')} ({count(speech['utterances'], 'utterance')}, {speech['manifest']}) "
        f"with {count(speech['phones'], 'kind')} of phones ({speech['alignment']}). "
        f"k-means for comparison was fitted on {fitted['manifest']} ({fitted['hours']:.2f} hours, of which one is used at most)."
    )


def count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def key_figures(rows: Sequence[Mapping], speakers: int) -> list[tuple[str, str, str]]:
    """(title, figure, what it says and what the baselines reach) of what matters most."""
    own = "teacher" if any(row["kind"] == "teacher" for row in rows) else "layer"
    best = best_row(rows, own, "pnmi", max)
    text = f"{named(best)} removes this share of the uncertainty about the phone. {against(rows, 'pnmi', '.3f', max)}"
    found = [("phone information (PNMI)", f"{best['pnmi']:.3f}", text)]
    if across := best_row(rows, "layer", "abx_across", min):
        text = f"So often the features of layer {across['index']} put a phone nearer to another phone than to the same one by another speaker (50 %: by chance). "
        found.append(
            (
                "ABX error across speakers",
                f"{across['abx_across']:.1f} %",
                text + against(rows, "abx_across", ".1f", min),
            )
        )
    if speakers > 1:
        text = f"{named(best)} removes this share of the uncertainty about who speaks; less is better. {against(rows, 'speaker_pnmi', '.3f', min)}"
        found.append(("speaker information", f"{best['speaker_pnmi']:.3f}", text))
    if least := best_row(rows, "teacher", "perplexity", min):
        text = f"So many codes of codebook {least['index']}, the least evenly used one, occur; they tell as much as {least['perplexity']:.1f} equally frequent ones would. "
        found.append(
            (
                "codes in use",
                f"{least['active']} of {least['n_codes']}",
                text + f"A small part of {least['n_codes']} would mean a collapse.",
            )
        )
    return found


def named(row: Mapping) -> str:
    return {"teacher": "Codebook", "layer": "k-means on layer"}[row["kind"]] + f" {row['index']}"


def against(rows: Sequence[Mapping], key: str, spec: str, better: Callable) -> str:
    """The baselines' figures in one sentence."""
    names = {
        "mfcc": "MFCC",
        "fbank": "log-Mel",
        "untrained": "the untrained model\N{RIGHT SINGLE QUOTATION MARK}s best layer",
    }
    found = {name: best_row(rows, kind, key, better) for kind, name in names.items()}
    said = [f"{name} {row[key]:{spec}}" for name, row in found.items() if row]
    return f"For comparison: {', '.join(said)}." if said else ""


def best_row(rows: Sequence[Mapping], kind: str, key: str, better: Callable) -> Mapping | None:
    """The row of a kind with the highest (``max``) or lowest (``min``) figure; None where no row has it."""
    return better(
        (row for row in rows if row["kind"] == kind and row.get(key) is not None),
        key=lambda row: row[key],
        default=None,
    )


def conventions(figures: Mapping) -> list[str]:
    """How it was measured, for who wants to compare."""
    row, speakers = figures["rows"][0], count(figures["measured_on"]["speakers"], "speaker")
    said = [
        f"All rows have {row['n_codes']} units, 50 a second, on {row['frames']:,} frames. Purities and PNMI rise with the number of units: compare at equal numbers only.",
        "PNMI: I(phone; unit) / H(phone). Phone purity: share of frames that are right if each unit is read as its most frequent phone. Cluster purity: the same with each "
        "phone read as its most frequent unit; it falls as units specialise. A frame has the phone at its centre. Silence is a phone like any other.",
        f"Speaker information: I(speaker; unit) / H(speaker) of {speakers}; compare on the same speech only.",
        "Bit rate: units a second times their entropy. Of runs: each run of equal units counted once. Unit: mean length of a run; "
        f"a phone of this speech lasts {row['phone_ms']:.0f} ms in the mean, neighbours of one name counted as one.",
        "k-means: as many clusters everywhere, fitted on the training manifest, measured on other speech.",
    ]
    if any(row.get("unit_abx_within") is not None for row in figures["rows"]):
        said.append(
            "ABX, as in ZeroSpeech 2021: of two triphones that differ in the middle phone, how often is a third nearer to the wrong one; within: all by one speaker, across: the third "
            "by another. Of features: their angle, in which k-means has no part. Of units: the same or not, which is all that codebooks and predictions have. The two do not compare."
        )
    return [*said, "Every figure in full precision: figures.json."]
