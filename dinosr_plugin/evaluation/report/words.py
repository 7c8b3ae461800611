"""What the report says in words: the text of every section, the key figures with their baselines, the conventions."""

from collections.abc import Callable, Mapping, Sequence

from ..table import best_row, best_units

TEXTS = {  # section -> title, text under it
    "layers": (
        "Where the information is",
        "Each layer of the trained model, clustered by k-means, compared with the same model with random weights and "
        "with plain acoustic features. A trained layer that is no better than these has learned nothing that the sound "
        "does not show anyway. Codebooks and heads are drawn at the layer that they belong to. They are units only, "
        "so compare their ABX errors with those of k-means units.",
    ),
    "table": ("All figures", ""),
    "meaning": (
        "What the codes mean",
        "Each column is one code, each row one phone: the darker a cell, the larger the share of the code's frames "
        "that belong to the phone. One dark cell in a column: the code stands for one phone. A dark block: it stands "
        "for a class of similar phones.",
    ),
    "example": (
        "What units look like",
        "A stretch from the middle of an utterance. The units come from sound alone; the phones were aligned to the "
        "words and are shown for comparison only. Numbers are names of units and have a meaning within their codebook "
        "only.",
    ),
    "durations": (
        "How long units last",
        "A unit lasts from its first frame to the next change. The last bar counts all longer ones.",
    ),
    "map": (
        "A map of frames",
        "t-SNE places frames with similar features next to each other; phones and speakers have about equal shares of "
        "the sample (the seven speakers with the most speech, if there are more). Only neighbourhoods can be "
        "interpreted: distances between far groups, their sizes and directions mean little. Where speakers mix and "
        "phones do not, the layer represents what is said rather than who says it.",
    ),
    "training": (
        "The training",
        "Where codes are predicted, the loss should fall below their entropy, which is the loss of a guess that knows "
        "only how frequent each code is. A loss that falls together with the entropy is not a success but a collapse "
        "of the codes.",
    ),
    "use": (
        "Use of the codebooks",
        "Curves that fall towards 0 show a collapse onto few codes, which the loss does not show. Codes that are never "
        "used are missing on the right of the last picture.",
    ),
    "conventions": ("How it was measured", ""),
}
WITHOUT_PHONES = {  # section -> text instead of that in TEXTS
    "layers": "Each layer of the trained model, clustered by k-means, compared with the same model with random weights "
    "and with plain acoustic features. Little speaker information is only good in units that tell what is said, which "
    "an alignment or ABX items would show: units that tell nothing have none either.",
    "example": "A stretch from the middle of an utterance. The units come from sound alone. Equal units have equal "
    "colours, each of which stands for several units. Numbers are names of units and have a meaning within their "
    "codebook only.",
    "map": "t-SNE places frames with similar features next to each other; speakers have about equal shares of the "
    "sample (the seven speakers with the most speech, if there are more). Only neighbourhoods can be interpreted: "
    "distances between far groups, their sizes and directions mean little. Where speakers mix, the layer represents "
    "little of who says it.",
}
NO_PHONES = (
    "no phone alignment was given (--phones): the page does not show what the units tell about phones (PNMI, purity, "
    "the phones of each code); if the words are known, the Montreal Forced Aligner makes one, a folder of TextGrid "
    "files, which --phones reads"
)


def texts(figures: Mapping) -> dict[str, tuple[str, str]]:
    """Section -> title, text under it."""
    if has_phones(figures):
        return TEXTS
    return {key: (title, WITHOUT_PHONES.get(key, text)) for key, (title, text) in TEXTS.items()}


def has_phones(figures: Mapping) -> bool:
    return figures["measured_on"]["phones"] is not None


def head(figures: Mapping) -> str:
    """What was measured on what."""
    model, speech, fitted = figures["model"], figures["measured_on"], figures["fitted_on"]
    codebooks = (
        f"{count(model['codebooks'], 'codebook')} of {model['codebook_size']} codes" if model["codebooks"] else ""
    )
    size = f"{model['parameters'] / 1e6:.1f} million parameters"
    layers = f"{model['layers']} {model['layer_kind']} of width {model['width']} ({size})"
    trained = "" if figures["updates"] is None else f" after {figures['updates']:,} updates"
    phones = (
        f" with {count(speech['phones'], 'different phone')} ({speech['alignment']})" if has_phones(figures) else ""
    )
    return (
        f"{model['name']}{trained}: {layers}, {codebooks or 'no codebooks'}. Measured on {speech['hours']:.2f} hours "
        f"by {count(speech['speakers'], 'speaker')} ({count(speech['utterances'], 'utterance')}, {speech['manifest']})"
        f"{phones}. k-means for comparison was fitted on {fitted['manifest']} ({fitted['hours']:.2f} hours, of which "
        "at most one is used)."
    )


def count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def key_figures(figures: Mapping) -> list[tuple[str, str, str]]:
    """(title, figure, its meaning and the figures of the baselines) of the most important measures."""
    rows, code_set = figures["rows"], default_codes(figures)
    kind = code_set or "layer"
    best = best_units(rows, [kind])
    assert best is not None  # there are layers
    tiles = []
    if has_phones(figures):
        baselines = against(rows, "pnmi", ".3f", max)
        text = f"{named(best)} removes this share of the uncertainty about the phone. {baselines}"
        tiles.append(("phone information (PNMI)", f"{best['pnmi']:.3f}", text))
    if across := best_row(rows, ["layer"], "abx_across", min):
        text = (
            f"Share of triples in which X is closer to B, another phone, than to A, the same phone by another speaker, "
            f"in the features of layer {across['index']} (50 % is chance). {against(rows, 'abx_across', '.1f', min)}"
        )
        tiles.append(("ABX error across speakers", f"{across['abx_across']:.1f} %", text))
    if figures["measured_on"]["speakers"] > 1:
        baselines = against(rows, "speaker_pnmi", ".3f", min)
        text = f"{named(best)} removes this share of the uncertainty about the speaker; less is better. {baselines}"
        tiles.append(("speaker information", f"{best['speaker_pnmi']:.3f}", text))
    if code_set and (least := best_row(rows, [code_set], "perplexity", min)):
        which = ", the least evenly used one" if figures["model"]["codebooks"] > 1 else ""
        text = (
            f"Codes that occur in {code_row_named(least)}{which}; they carry as much information as "
            f"{least['perplexity']:.1f} equally frequent ones. A small part of {least['n_codes']} would mean a "
            "collapse."
        )
        tiles.append(("codes in use", f"{least['active']} of {least['n_codes']}", text))
    return tiles


def default_codes(figures: Mapping) -> str | None:
    """Name of the model's default set of codes, None for a model without codebooks."""
    return next(iter(figures["model"]["code_sets"]), None)


def named(row: Mapping) -> str:
    """The subject of a sentence: k-means on a layer, or one of the model's codebooks."""
    if row["kind"] == "layer":
        return f"k-means on layer {row['index']}"
    name = code_row_named(row)
    return name[:1].upper() + name[1:]


def code_row_named(row: Mapping) -> str:
    """``codebook 0``; ``the codebook`` if there is only one."""
    return f"the {row['name']}" if row["name"].isalpha() else row["name"]


def against(rows: Sequence[Mapping], key: str, spec: str, better: Callable) -> str:
    """The best figure of each baseline, in one sentence."""
    names = {
        "mfcc": "MFCC",
        "fbank": "log-Mel",
        "untrained": "the untrained model\N{RIGHT SINGLE QUOTATION MARK}s best layer",
    }
    baselines = {name: best_row(rows, [kind], key, better) for kind, name in names.items()}
    parts = [f"{name} {row[key]:{spec}}" for name, row in baselines.items() if row]
    return f"For comparison: {', '.join(parts)}." if parts else ""


def conventions(figures: Mapping) -> list[str]:
    """How it was measured, for readers who want to compare."""
    rows, model = figures["rows"], figures["model"]
    layer = next(row for row in rows if row["kind"] == "layer")
    speakers, phones = count(figures["measured_on"]["speakers"], "speaker"), has_phones(figures)
    rising = "Purities and PNMI rise" if phones else "Speaker information rises"
    phone_ms = (
        f"; the mean length of a phone in this speech is {layer['phone_ms']:.0f} ms, adjacent segments of one name "
        "counted as one"
        if phones
        else ""
    )
    about_phones = (
        "PNMI: I(phone; unit) / H(phone). Phone purity: share of frames that are right if each unit is read as its "
        "most frequent phone. Cluster purity: the same with each phone read as its most frequent unit; it falls as "
        "units specialise. A frame counts for the phone at its centre; published figures may use another alignment. "
        "Silence is a phone like any other."
    )
    lines = [
        f"All rows have {layer['n_codes']} units. The model has {model['rate']:g} frames per second, "
        f"{layer['frames']:,} in all, the first one centred at {model['first_centre_ms']:.1f} ms; MFCC and log-Mel "
        f"have 50 per second. {rising} with the number of units: compare at equal numbers only.",
        *([about_phones] if phones else []),
        f"Speaker information: I(speaker; unit) / H(speaker) of {speakers}; compare on the same speech only.",
        "Bit rate: units per second times their entropy. Of runs: each run of equal units counted once. Unit: mean "
        f"length of a run{phone_ms}.",
        "k-means: the same number of clusters everywhere, fitted on the training manifest, measured on other speech.",
    ]
    if any(row.get("unit_abx_within") is not None for row in rows):
        lines.append(
            "ABX error, as in ZeroSpeech 2021: share of triples of triphones in which X is closer to B, which differs "
            "in the middle phone, than to A. Within: all three by one speaker; across: X by another. Features are "
            "compared by their angle, without k-means; units by whether they are equal, which is all that codebooks "
            "and predictions have. Compare errors of features only with each other, and likewise those of units."
        )
    return [*lines, "Every figure in full precision: figures.json."]
