"""The report's pictures: section of the page -> what it shows. Figures that they bring go into the dictionary ``figures``."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...data.acoustic import log_mel
from ...data.audio import SAMPLE_RATE
from ...units.codes import CodeReader
from ...units.features import LiveFeatures, whole_wave
from ..measures.quality.units import count_units, phone_lengths
from ..phones import FIRST_CENTRE
from ..plots import frame_map as map_plots
from ..plots import layers as layer_plots
from ..plots import plot_code_by_phone, style
from ..plots import training as training_plots
from ..plots import units as unit_plots
from ..training_log import curve
from .frame_map import frame_map
from .inputs import Inputs
from .page import Picture
from .words import best_row

SECONDS = 3.0  # of the example
BY_LAYER = (  # key of a row, title, unit
    ("pnmi", "Phone information (PNMI)", "I(phone; unit) / H(phone); higher is better"),
    ("phone_purity", "Phone purity", "share of frames; higher is better"),
    ("speaker_pnmi", "Speaker information", "I(speaker; unit) / H(speaker)"),
    ("abx_within", "ABX error of features, within a speaker", "%; lower is better, 50 is chance"),
    ("abx_across", "ABX error of features, across speakers", "%; lower is better, 50 is chance"),
    ("unit_abx_within", "ABX error of units, within a speaker", "%; lower is better, 50 is chance"),
    ("unit_abx_across", "ABX error of units, across speakers", "%; lower is better, 50 is chance"),
)


def layer_pictures(inputs: Inputs, figures: dict) -> list[Picture]:
    drawn = [
        (
            layer_plots.plot_by_layer(
                figures["rows"], key, figures["model"]["layers"], inputs.out / f"layers_{key}.png", title, unit
            ),
            title,
        )
        for key, title, unit in BY_LAYER
    ]
    return [Picture(path, f"{title} over the layers, with baselines") for path, title in drawn if path]


def code_pictures(inputs: Inputs, figures: dict) -> dict[str, list[Picture]]:
    """Everything that needs the units themselves: what they mean, how often and how long they are, and how they follow speech."""
    reader = CodeReader(inputs.checkpoint)
    codes = dict(reader.stream(inputs.utterances))  # utterance -> (K, n)
    counts = [
        count_units({utt: own[k] for utt, own in codes.items()}, inputs.phones, None, reader.rate, reader.size)
        for k in range(reader.n_codebooks)
    ]
    counts = np.stack([own.by_phone for own in counts])  # (K, n_phones, V)
    which = best_row(figures["rows"], "teacher", "pnmi", max)["index"]
    figures["code_counts"] = counts.sum(axis=1).tolist()
    use = Picture(
        unit_plots.plot_code_use(counts.sum(axis=1), inputs.out / "code_use.png"),
        "Share of the frames of each code by rank, for every codebook",
    )
    return {
        "meaning": meaning_pictures(inputs, counts, which),
        "example": [example_picture(inputs, figures, codes, counts, reader.rate)],
        "durations": [durations_picture(inputs, figures, [own[which] for own in codes.values()], which, reader.rate)],
        "use": [use],
    }


def meaning_pictures(inputs: Inputs, counts: np.ndarray, which: int) -> list[Picture]:
    """The best codebook's heat map to look at, the others' to open."""
    return [
        Picture(
            plot_code_by_phone(
                counts[k],
                inputs.phones.names,
                inputs.out / f"code_by_phone_{k}.png",
                f"P(phone | code) of codebook {k}",
            ),
            f"Heat map of P(phone | code) of codebook {k}",
            wide=True,
            hidden=k != which,
        )
        for k in sorted(range(len(counts)), key=lambda k: (k != which, k))
    ]


def durations_picture(inputs: Inputs, figures: dict, codes: Sequence[np.ndarray], which: int, rate: float) -> Picture:
    units = np.concatenate([run_lengths(own) for own in codes]) * 1000 / rate  # ms
    phones = phone_lengths(inputs.phones, [utterance.name for utterance in inputs.utterances])
    figures["durations"] = {"codebook": which, "unit": lengths(units), "phone": lengths(phones)}
    path = unit_plots.plot_durations(
        units, phones, inputs.out / "durations.png", f"How long units of codebook {which} and phones last"
    )
    return Picture(path, "Histograms of the lengths of unit runs and of phone segments")


def lengths(values: np.ndarray) -> dict[str, float]:
    return {"count": len(values), "mean_ms": float(np.mean(values)), "median_ms": float(np.median(values))}


def run_lengths(units: np.ndarray) -> np.ndarray:
    """(n,) -> (m,) frames of each run of equal units."""
    edges = np.flatnonzero(np.diff(units, prepend=-1, append=-1))
    return np.diff(edges)


def example_picture(
    inputs: Inputs, figures: dict, codes: Mapping[str, np.ndarray], counts: np.ndarray, rate: float
) -> Picture:
    names = inputs.phones.names
    groups = style.phone_groups(names, counts[0].sum(axis=1))
    stretch = choose_stretch(inputs, codes, rate)
    figures["example"] = {"utterance": stretch.utt, "start": stretch.start, "end": stretch.end}
    of_units = [[groups[phone] for phone in table.argmax(axis=0)] for table in counts]
    path = unit_plots.plot_stretch(stretch, dict(zip(names, groups)), of_units, inputs.out / "example.png")
    return Picture(path, f"Waveform, log-Mel picture, phones and units of a stretch of {stretch.utt}", wide=True)


def choose_stretch(inputs: Inputs, codes: Mapping[str, np.ndarray], rate: float) -> unit_plots.Stretch:
    """The middle of an utterance of the middle length, among those that are long enough."""
    by_length = sorted(inputs.utterances, key=lambda utterance: utterance.samples)
    enough = [utterance for utterance in by_length if utterance.samples >= SECONDS * SAMPLE_RATE] or by_length[-1:]
    chosen = enough[len(enough) // 2]
    length = chosen.samples / SAMPLE_RATE
    start, end = max(0.0, (length - SECONDS) / 2), min(length, (length + SECONDS) / 2)
    wave = whole_wave(chosen)
    mel = log_mel(wave).reshape(
        -1, 80
    )  # (n, 160), two frames of 10 ms in each -> (2 n, 80); the first covers 0 to 25 ms
    first, last = (round((time - 0.0075) * 100) for time in (start, end))
    starts, phones = inputs.phones.segments[chosen.name]
    segments = [
        (s / 1e6, e / 1e6, inputs.phones.names[phone])
        for s, e, phone in zip(starts, inputs.phones.ends[chosen.name], phones)
    ]
    within = lambda parts: [part for part in parts if part[0] < end and part[1] > start]
    return unit_plots.Stretch(
        utt=chosen.name,
        speaker=inputs.speakers[chosen.name],
        start=start,
        end=end,
        wave=wave[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)],
        mel=mel[max(0, first) : last].T,
        phones=within(segments),
        units=[within(runs(own, rate)) for own in codes[chosen.name]],
    )


def runs(units: np.ndarray, rate: float) -> list[tuple[float, float, int]]:
    """(start, end, unit) of each run of equal units, in seconds; a frame reaches half way to the next one's centre."""
    lengths = run_lengths(units)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    times = FIRST_CENTRE + (edges - 0.5) / rate
    return [(float(start), float(end), int(units[first])) for start, end, first in zip(times, times[1:], edges)]


def map_pictures(inputs: Inputs, figures: dict) -> list[Picture]:
    layer = best_row(figures["rows"], "layer", "pnmi", max)["index"]
    found = frame_map(
        LiveFeatures.of_layer(inputs.checkpoint, inputs.manifest, layer),
        inputs.utterances,
        inputs.phones,
        inputs.speakers,
    )
    figures["map"] = {"layer": layer, "frames": len(found.points)}
    names, out, title = inputs.phones.names, inputs.out, f"{len(found.points):,} frames of layer {layer} by"
    groups = style.phone_groups(names, np.bincount(found.phones, minlength=len(names)))
    by_phone = map_plots.plot_map_of_phones(
        found.points, found.phones, names, groups, out / "map_phones.png", f"{title} phone"
    )
    by_speaker = map_plots.plot_map_of_speakers(
        found.points, found.speakers, out / "map_speakers.png", f"{title} speaker"
    )
    return [
        Picture(by_phone, "t-SNE map of frames, coloured by the class of their phone"),
        Picture(by_speaker, "The same map, coloured by speaker"),
    ]


def training_pictures(inputs: Inputs, figures: dict) -> dict[str, list[Picture]]:
    """Nothing without a log; of what an older log lacks, nothing."""
    records, out = inputs.records, inputs.out
    if not records:
        return {}
    figures["training"] = {"records": len(records), "first": dict(records[0]), "last": dict(records[-1])}

    def by_codebook(key: str, title: str, unit: str, size: int | None = None) -> list[Picture]:
        path = out / f"training_{key}.png"
        return (
            [Picture(training_plots.plot_by_codebook(records, key, path, title, unit, size), f"{title} over updates")]
            if curve(records, key)
            else []
        )

    size = figures["model"]["codebook_size"]
    training = [Picture(training_plots.plot_loss(records, out / "training_loss.png"), "Training loss over updates")]
    training += by_codebook("accuracy", "Accuracy of the student's predictions", "share of masked frames")
    if curve(records, "lr"):
        training.append(
            Picture(training_plots.plot_learning_rate(records, out / "learning_rate.png"), "Learning rate over updates")
        )
    use = by_codebook("active_codes", "Active codes", "codes that occur between two lines of the log", size)
    use += by_codebook("target_ppl", "Perplexity of the codes", "effective number of codes", size)
    return {"training": training, "use": use}
