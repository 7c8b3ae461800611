"""The pictures of the report, by section of the page. Their figures are added to the dictionary ``figures``."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...data.acoustic import log_mel
from ...data.audio import SAMPLE_RATE
from ...units.batches import load_checked_wave
from ...units.frames import UtteranceArrays
from ..comparison import Comparison
from ..measures.quality.measure import UnitQualityMeasure
from ..measures.quality.units import phone_lengths
from ..phones import PhoneAlignment
from ..plots import frame_map as map_plots
from ..plots import layers as layer_plots
from ..plots import plot_code_by_phone, style
from ..plots import training as training_plots
from ..plots import units as unit_plots
from ..speech import Speech
from ..table import best_units
from ..training_log import curve
from ..web_page import Picture
from .frame_map import frame_map
from .inputs import Inputs

SECONDS = 3.0  # duration of the example
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
                figures["rows"],
                key,
                figures["model"]["layers"],
                figures["model"]["code_sets"],
                inputs.out / f"layers_{key}.png",
                title,
                unit,
            ),
            title,
        )
        for key, title, unit in BY_LAYER
    ]
    return [Picture(path, f"{title} over the layers, with baselines") for path, title in drawn if path]


def code_pictures(inputs: Inputs, figures: dict, comparison: Comparison) -> dict[str, list[Picture]]:
    """Pictures of the units: their meaning, frequency and duration, and an example."""
    reader, code_set = inputs.reader, inputs.reader.require_codes()
    codes = comparison.codes(code_set)  # utterance -> (n, K)
    counter = UnitQualityMeasure()
    sources = [comparison.code_source(code_set, k) for k in range(codes.width)]
    names = [source.name for source in sources]
    counts = [counter.count(source, inputs.speech) for source in sources]
    by_phone = [of_codebook.by_phone for of_codebook in counts if of_codebook.by_phone is not None]  # [] without phones
    best = best_units(figures["rows"], [code_set])
    assert best is not None  # there are codebooks
    which = best["index"]
    frames = np.stack([of_codebook.frames for of_codebook in counts])  # (K, V)
    figures["code_counts"] = frames.tolist()
    use = Picture(
        unit_plots.plot_code_use(frames, inputs.out / "code_use.png"),
        "Share of the frames of each code by rank, for every codebook",
    )
    units = [of_utterance[:, which] for _, of_utterance in codes]
    return {
        "meaning": meaning_pictures(inputs, by_phone, which, names),
        "example": [example_picture(inputs, figures, codes, by_phone)],
        "durations": [durations_picture(inputs, figures, units, best, reader.rate)],
        "use": [use],
    }


def meaning_pictures(inputs: Inputs, by_phone: Sequence[np.ndarray], which: int, names: Sequence[str]) -> list[Picture]:
    """Heat maps of the best codebook and, folded away, of the others. ``by_phone``: (n_phones, V) of each codebook."""
    if not by_phone:
        return []
    phones = inputs.speech.require_phones().names
    return [
        Picture(
            plot_code_by_phone(
                by_phone[k],
                phones,
                inputs.out / f"code_by_phone_{k}.png",
                f"P(phone | code) of {names[k]}",
            ),
            f"Heat map of P(phone | code) of {names[k]}",
            wide=True,
            hidden=k != which,
        )
        for k in sorted(range(len(by_phone)), key=lambda k: (k != which, k))
    ]


def durations_picture(inputs: Inputs, figures: dict, codes: Sequence[np.ndarray], row: Mapping, rate: float) -> Picture:
    """``codes``: the units of every utterance in the codebook of ``row``."""
    units = np.concatenate([run_lengths(sequence) for sequence in codes]) * 1000 / rate  # ms
    alignment = inputs.speech.phones
    phones = phone_lengths(alignment, inputs.speech.names) if alignment else None
    figures["durations"] = {"codebook": row["index"], "unit": lengths(units)}
    figures["durations"] |= {} if phones is None else {"phone": lengths(phones)}
    what = "" if phones is None else " and phones"
    path = unit_plots.plot_durations(
        units, phones, inputs.out / "durations.png", f"How long units of {row['name']}{what} last"
    )
    return Picture(path, "Histogram of the lengths of unit runs" + ("" if phones is None else " and of phone segments"))


def lengths(values: np.ndarray) -> dict[str, float]:
    return {"count": len(values), "mean_ms": float(np.mean(values)), "median_ms": float(np.median(values))}


def run_lengths(units: np.ndarray) -> np.ndarray:
    """(n,) -> (m,) number of frames of each run of equal units."""
    edges = np.flatnonzero(np.diff(units, prepend=-1, append=-1))
    return np.diff(edges)


def example_picture(inputs: Inputs, figures: dict, codes: UtteranceArrays, by_phone: Sequence[np.ndarray]) -> Picture:
    place = (inputs.reader.rate, inputs.reader.first_centre)
    stretch = choose_stretch(inputs.speech, codes, *place)
    figures["example"] = {"utterance": stretch.utt, "start": stretch.start, "end": stretch.end}
    of_phones, of_units, shown = None, [], "units"
    if inputs.speech.phones is not None:
        names, shown = inputs.speech.phones.names, "phones and units"
        groups = style.phone_groups(names, by_phone[0].sum(axis=1))
        of_phones = dict(zip(names, groups))
        of_units = [[groups[phone] for phone in table.argmax(axis=0)] for table in by_phone]
    path = unit_plots.plot_stretch(stretch, of_phones, of_units, inputs.out / "example.png")
    return Picture(path, f"Waveform, log-Mel picture, {shown} of a stretch of {stretch.utt}", wide=True)


def choose_stretch(speech: Speech, codes: UtteranceArrays, rate: float, first_centre: float) -> unit_plots.Stretch:
    """The middle of the utterance of median length among those that are long enough. codes: utterance -> (n, K)."""
    by_length = sorted(speech.utterances, key=lambda utterance: utterance.samples)
    enough = [utterance for utterance in by_length if utterance.samples >= SECONDS * SAMPLE_RATE] or by_length[-1:]
    chosen = enough[len(enough) // 2]
    length = chosen.samples / SAMPLE_RATE
    start, end = max(0.0, (length - SECONDS) / 2), min(length, (length + SECONDS) / 2)
    wave = load_checked_wave(chosen)
    mel = log_mel(wave).reshape(-1, 80)  # (n, 160), two frames of 10 ms each -> (2 n, 80); the first covers 0 to 25 ms
    first, last = (round((time - 0.0075) * 100) for time in (start, end))
    within = lambda parts: [part for part in parts if part[0] < end and part[1] > start]
    return unit_plots.Stretch(
        utt=chosen.name,
        speaker=speech.speaker(chosen.name),
        start=start,
        end=end,
        wave=wave[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)],
        mel=mel[max(0, first) : last].T,
        phones=within(phone_segments(speech.phones, chosen.name)) if speech.phones else None,
        units=[within(runs(sequence, rate, first_centre)) for sequence in codes[chosen.name].T],
    )


def phone_segments(phones: PhoneAlignment, utt: str) -> list[tuple[float, float, str]]:
    """(start, end, phone) of each segment of an utterance, in seconds."""
    starts, numbers = phones.segments[utt]
    segments = zip(starts, phones.ends[utt], numbers)
    return [(start / 1e6, end / 1e6, phones.names[number]) for start, end, number in segments]


def runs(units: np.ndarray, rate: float, first_centre: float) -> list[tuple[float, float, int]]:
    """(start, end, unit) of each run of equal units, in seconds; a frame extends halfway to the centre of the next."""
    lengths = run_lengths(units)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    times = first_centre + (edges - 0.5) / rate
    return [(float(start), float(end), int(units[first])) for start, end, first in zip(times, times[1:], edges)]


def map_pictures(inputs: Inputs, figures: dict, comparison: Comparison) -> list[Picture]:
    best = best_units(figures["rows"], ["layer"])
    assert best is not None  # there are layers
    layer = best["index"]
    frames = frame_map(comparison.features(layer), inputs.speech)
    figures["map"] = {"layer": layer, "frames": len(frames.points)}
    out, title = inputs.out, f"{len(frames.points):,} frames of layer {layer} by"
    pictures = []
    if inputs.speech.phones is not None and frames.phones is not None:
        names = inputs.speech.phones.names
        groups = style.phone_groups(names, np.bincount(frames.phones, minlength=len(names)))
        by_phone = map_plots.plot_map_of_phones(
            frames.points, frames.phones, names, groups, out / "map_phones.png", f"{title} phone"
        )
        pictures.append(Picture(by_phone, "t-SNE map of frames, coloured by the class of their phone"))
    by_speaker = map_plots.plot_map_of_speakers(
        frames.points, frames.speakers, out / "map_speakers.png", f"{title} speaker"
    )
    return [*pictures, Picture(by_speaker, "t-SNE map of frames, coloured by speaker")]


def training_pictures(inputs: Inputs, figures: dict) -> dict[str, list[Picture]]:
    """Training curves; none without a log, and only those whose values the log contains."""
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
    loss = training_plots.plot_loss(records, out / "training_loss.png", inputs.validation)
    training = [Picture(loss, "Training loss over updates")]
    unit = training_plots.loss_unit(records)
    training += by_codebook("accuracy", "Accuracy of the predictions", f"share of {unit}s")
    if curve(records, "lr"):
        training.append(
            Picture(training_plots.plot_learning_rate(records, out / "learning_rate.png"), "Learning rate over updates")
        )
    use = by_codebook("active_codes", "Active codes", "codes that occur between two lines of the log", size)
    use += by_codebook("target_ppl", "Perplexity of the codes", "effective number of codes", size)
    return {"training": training, "use": use}
