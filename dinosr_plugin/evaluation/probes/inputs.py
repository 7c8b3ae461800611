"""The inputs of probes, which are read and checked before any computation, and the measures that follow from them."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...data.acoustic import ENERGY
from ...data.perturbation.praat import require_parselmouth
from ...errors import UserError, first_few
from ...files import read_lines
from ...units.batches import Utterance, read_utterances
from ..measures.probing.intervals import FEW
from ..measures.probing.labels import (
    Labels,
    PhoneLabels,
    PositionLabels,
    TrackLabels,
    UtteranceLabels,
    WordLabels,
)
from ..measures.probing.measure import (
    SPEAKER,
    ProbeMeasure,
    SpeakerMeasure,
    TrainingSpeech,
    require_other_speakers,
)
from ..measures.probing.tracks import Tracks
from ..measures.speaker import require_probe
from ..measuring import Measure
from ..model_rows import SEED, random_hour
from ..phones import PhoneAlignment
from ..speech import Speech, digest_of_utterances, manifest_speakers

PHONE, GENDER, F0, ENERGY_TASK, POSITION, WORD = "phone", "gender", "f0", "energy", "position", "word"
TASKS = (PHONE, SPEAKER, GENDER, F0, ENERGY_TASK, POSITION, WORD)
OF_UTTERANCES = (SPEAKER, GENDER)  # the tasks of a model that has embeddings of whole recordings only
NUMBERS = (F0, ENERGY_TASK, POSITION)  # their scores are R²
FRAMES, TOP_WORDS = 20_000, 100
REMEDY_GENDERS = "a line is SPEAKER<TAB>F or M, or one of LibriSpeech's SPEAKERS.TXT: SPEAKER | F | ..."


@dataclass(frozen=True)
class ProbeOptions:
    """What is asked for.

    Attributes:
        train, manifest: manifests of the speech that probes are fitted and measured on.
        tasks: of ``TASKS``.
        phones: phone alignments of both.
        words: alignments of the words of both.
        genders: file of speakers' genders.
        frames: training examples of a probe at most.
        top_words: number of different words.
        skip_missing: leave out utterances without alignment.
    """

    train: Path
    manifest: Path
    tasks: Sequence[str]
    phones: Sequence[Path] = ()
    words: Sequence[Path] = ()
    genders: Path | None = None
    frames: int = FRAMES
    top_words: int = TOP_WORDS
    skip_missing: bool = False


@dataclass(frozen=True)
class ProbeInputs:
    """Checked inputs.

    Attributes:
        fitted: the training utterances, random ones of at most an hour; ``training``: their speakers.
        speech: the test speech.
        phones, words: alignments, None unless needed.
        genders: speaker -> F or M.
        classes: task -> names of its classes.
        notes: for the user.
    """

    options: ProbeOptions
    fitted: Sequence[Utterance]
    training: Mapping[str, str]
    speech: Speech
    phones: PhoneAlignment | None = None
    words: PhoneAlignment | None = None
    genders: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def speakers(self) -> int:
        """Number of test speakers."""
        return len({self.speech.speaker(utt) for utt in self.speech.names})


def read_inputs(options: ProbeOptions, min_samples: int) -> ProbeInputs:
    """Read and check all inputs. ``min_samples``: of the shortest utterance with a frame.

    Raises UserError if one of them is invalid or missing.
    """
    require_options(options)
    notes: list[str] = []
    phones = PhoneAlignment.read(*options.phones) if PHONE in options.tasks else None
    words = PhoneAlignment.read(*options.words, column="word") if WORD in options.tasks else None
    genders = read_genders(options.genders) if GENDER in options.tasks and options.genders else {}
    alignments = [alignment for alignment in (phones, words) if alignment]
    train, tested = (
        aligned(manifest, alignments, options.skip_missing, min_samples, notes)
        for manifest in (options.train, options.manifest)
    )
    fitted = random_hour(train)
    speakers = manifest_speakers(options.train)
    training = {utterance.name: speakers[utterance.name] for utterance in fitted}
    speech = Speech(phones, manifest_speakers(options.manifest), tested, options.manifest)
    for task in options.tasks:
        if task != SPEAKER:
            require_other_speakers(training, speech, str(options.train), task)
    if SPEAKER in options.tasks:
        require_probe(speech)
    classes = {}
    if phones:
        classes[PHONE] = shared_phones(phones, list(training), speech.names, notes)
    if words:
        classes[WORD] = frequent_words(words, list(training), speech.names, options.top_words, notes)
    if GENDER in options.tasks:
        classes[GENDER] = require_genders(genders, options, training, speech)
    inputs = ProbeInputs(options, fitted, training, speech, phones, words, genders, classes, notes)
    if inputs.speakers < FEW:
        notes.append(
            f"{options.manifest}: {inputs.speakers} speaker(s); "
            + ("no interval over speakers" if inputs.speakers == 1 else "intervals over so few are rough")
        )
    return inputs


def require_options(options: ProbeOptions) -> None:
    """Raise UserError for a task whose file is missing, and for F0 without parselmouth."""
    for task, given, option in (
        (PHONE, options.phones, "--phones"),
        (WORD, options.words, "--words"),
        (GENDER, options.genders, "--genders"),
    ):
        if task in options.tasks and not given:
            raise UserError(f"{option} is required with --task {task}; give it, or omit the task")
        if given and task not in options.tasks:
            raise UserError(f"{option}: only used with --task {task}; remove it, or add the task")
    if F0 in options.tasks:
        require_parselmouth()


def aligned(
    manifest: Path, alignments: Sequence[PhoneAlignment], skip_missing: bool, min_samples: int, notes: list[str]
) -> list[Utterance]:
    """The utterances of a manifest; with ``skip_missing`` those that all alignments contain, and a note."""
    utterances = read_utterances(manifest, min_samples)
    for alignment in alignments:
        missing = [utterance.name for utterance in utterances if utterance.name not in alignment.segments]
        if missing and (not skip_missing or len(missing) == len(utterances)):
            raise UserError(
                f"{manifest}: {len(missing)} of {len(utterances)} utterances have no alignment in {alignment.path} "
                f"({first_few(missing)}); give theirs as a further file, or leave them out with --skip-missing"
            )
        if missing:
            notes.append(
                f"{manifest}: {len(missing)} of {len(utterances)} utterances have no alignment ({first_few(missing)}); "
                "left out"
            )
            utterances = [utterance for utterance in utterances if utterance.name in alignment.segments]
    return utterances


# ---- classes ---------------------------------------------------------------------------------------------------------


def counted(alignment: PhoneAlignment, utts: Sequence[str]) -> Counter:
    """How many segments each phone or word has in these utterances."""
    counts: Counter = Counter()
    for utt in utts:
        counts.update(alignment.names[number] for number in alignment.segments[utt][1].tolist())
    return counts


def shared_phones(
    phones: PhoneAlignment, train: Sequence[str], tested: Sequence[str], notes: list[str]
) -> Sequence[str]:
    """The phones that both have. Notes tell which ones only one side has, and how many segments they have there."""
    ours, theirs = counted(phones, train), counted(phones, tested)
    for here, there, where in ((ours, theirs, "training"), (theirs, ours, "test")):
        if alone := sorted(here.keys() - there.keys()):
            segments = sum(here[name] for name in alone)
            notes.append(
                f"{len(alone)} phone(s) are in the {where} speech only ({first_few(alone)}; {segments} segments); "
                "left out"
            )
    shared = sorted(ours.keys() & theirs.keys())
    if len(shared) < 2:
        raise UserError(
            f"{phones.path}: the training and the test speech have {len(shared)} phone(s) in common; give alignments "
            "with the same phones"
        )
    return shared


def frequent_words(
    words: PhoneAlignment, train: Sequence[str], tested: Sequence[str], count: int, notes: list[str]
) -> Sequence[str]:
    """The ``count`` words that are most frequent in the training speech, of those that both have."""
    ours, theirs = counted(words, train), counted(words, tested)
    shared = sorted(ours.keys() & theirs.keys(), key=lambda word: (-ours[word], word))[:count]
    if len(shared) < 2:
        raise UserError(
            f"{words.path}: the training and the test speech have {len(shared)} word(s) in common; give more speech"
        )
    if len(shared) < count:
        notes.append(f"{len(shared)} words are in both the training and the test speech, not {count}; all are probed")
    return sorted(shared)


def require_genders(
    genders: Mapping[str, str], options: ProbeOptions, training: Mapping[str, str], speech: Speech
) -> Sequence[str]:
    """F and M. Raises UserError for a speaker without gender, and for training speech of one gender."""
    speakers = sorted({*training.values(), *(speech.speaker(utt) for utt in speech.names)})
    if missing := [speaker for speaker in speakers if speaker not in genders]:
        raise UserError(
            f"{options.genders}: {len(missing)} of {len(speakers)} speakers are not in it ({first_few(missing)}); "
            "add their lines"
        )
    if len({genders[speaker] for speaker in training.values()}) < 2:
        raise UserError(f"{options.train}: all its speakers have one gender; give a manifest with both")
    return ("F", "M")


def read_genders(path: str | Path) -> dict[str, str]:
    """Speaker -> F or M, from lines ``speaker<TAB>F`` or LibriSpeech's SPEAKERS.TXT, whose comments begin with ``;``.

    Raises UserError for a file that is missing or empty, a line of another form, and a speaker with both.
    """
    genders: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, REMEDY_GENDERS), start=1):
        if not line.strip() or line.startswith(";"):
            continue
        speaker, *rest = (part.strip() for part in line.split("|" if "|" in line else "\t"))
        if not speaker or not rest or rest[0] not in ("F", "M"):
            raise UserError(f"{path} line {number}: neither F nor M for a speaker; {REMEDY_GENDERS}")
        if genders.setdefault(speaker, rest[0]) != rest[0]:
            raise UserError(f"{path} line {number}: speaker {speaker} is F and M; remove one of the lines")
    if not genders:
        raise UserError(f"{path}: empty; {REMEDY_GENDERS}")
    return genders


# ---- measures --------------------------------------------------------------------------------------------------------


def make_measures(inputs: ProbeInputs, tracks: Path, controls: bool = True) -> list[Measure]:
    """A measure for each task.

    Args:
        tracks: folder for F0 and energy, which are measured when they are needed.
        controls: with probes of shuffled labels.
    """
    options, training = inputs.options, TrainingSpeech(inputs.training)
    # the digest of the speech has the phones and speakers of the test speech only
    about = [str(inputs.training), *(one.digest for one in (inputs.phones, inputs.words) if one), str(inputs.genders)]
    content = hashlib.sha256("\n".join(about).encode()).hexdigest()
    measures: list[Measure] = []
    for task in options.tasks:
        if task == SPEAKER:
            measures.append(SpeakerMeasure(SEED, controls))
        else:
            labels = make_labels(task, inputs, tracks)
            measures.append(ProbeMeasure(task, labels, training, options.frames, SEED, content, controls))
    return measures


def make_labels(task: str, inputs: ProbeInputs, tracks: Path) -> Labels:
    if task == POSITION:
        return PositionLabels()
    if task in (F0, ENERGY_TASK):
        utterances = [*inputs.fitted, *inputs.speech.utterances]
        speakers = {**inputs.training, **{utt: inputs.speech.speaker(utt) for utt in inputs.speech.names}}
        folder = tracks / f"{task}-{digest_of_utterances(utterances)[:16]}"
        return TrackLabels(Tracks(task, utterances, speakers, folder), ENERGY)
    classes = inputs.classes[task]
    if task == PHONE:
        assert inputs.phones is not None
        return PhoneLabels(inputs.phones, classes)
    if task == WORD:
        assert inputs.words is not None
        return WordLabels(inputs.words, classes)
    speakers = {**inputs.training, **{utt: inputs.speech.speaker(utt) for utt in inputs.speech.names}}
    return UtteranceLabels({utt: inputs.genders[speaker] for utt, speaker in speakers.items()}, classes)
