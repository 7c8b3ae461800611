"""The synthetic corpus: the same bytes for the same seed, LibriSpeech's layout, and phone times that match the
audio.
"""

import hashlib
import itertools
import json
import os
import random
import signal
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dinosr_plugin.data.corpora.librispeech import librispeech_splits
from dinosr_plugin.data.synth import corpus as synth
from dinosr_plugin.data.synth import espeak, grammar, spanish
from dinosr_plugin.errors import UserError

MINUTES, SPEAKERS, SEED = 1.5, 6, 7
PHONES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
ARPABET = set(PHONES.split())
SPANISH_PHONES = "AA AO B CH D EH F G HH IY K L LL M N NG NY P R RR S T TH UW W Y"
SPANISH = set(SPANISH_PHONES.split())
VOWELS = {"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "corpus"
    synth.synthesize(out, MINUTES, SPEAKERS, SEED, workers=2)
    return out


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def transcripts(corpus: Path, part: str) -> dict[str, str]:
    lines = [line for path in sorted((corpus / part).rglob("*.trans.txt")) for line in path.read_text().splitlines()]
    return dict(line.split(" ", 1) for line in lines)


def alignments(corpus: Path, part: str) -> dict[str, list[tuple[str, str, str]]]:
    header, *rows = (corpus / f"{part}.phones.tsv").read_text().splitlines()
    assert header == "utt\tstart\tend\tphone"
    found = defaultdict(list)
    for row in rows:
        utterance, *phone = row.split("\t")
        found[utterance].append(tuple(phone))
    return found


def audio(corpus: Path, part: str = "*") -> dict[str, np.ndarray]:
    return {path.stem: soundfile.read(path, dtype="float64")[0] for path in sorted(corpus.glob(f"{part}/*/*/*.flac"))}


# ---- the same seed, the same bytes ----


def test_bytes_do_not_depend_on_the_number_of_processes(corpus, tmp_path):
    synth.synthesize(tmp_path / "again", MINUTES, SPEAKERS, SEED, workers=1)
    assert digests(tmp_path / "again") == digests(corpus)


def test_another_seed_gives_other_sentences_and_audio(corpus, tmp_path):
    synth.synthesize(tmp_path / "other", MINUTES, SPEAKERS, SEED + 1, workers=2)
    assert not set(digests(corpus).values()) & set(digests(tmp_path / "other").values())
    assert not set(transcripts(corpus, "train").values()) & set(transcripts(tmp_path / "other", "train").values())


def test_an_instance_of_espeak_does_not_affect_another():
    def say(voice):
        with espeak.Espeak(voice) as talker:
            return talker.speak("the boy found seven green birds.")[0]

    first = say("en-us+klatt4")  # its noise depends on the library's random state
    say("en-us+f2")
    np.testing.assert_array_equal(say("en-us+klatt4"), first)


# ---- content of the folder ----


def test_layout_is_that_of_librispeech(corpus):
    assert sorted(entry.name for entry in corpus.iterdir()) == [
        "corpus.json",
        "dev",
        "dev.phones.tsv",
        "train",
        "train.phones.tsv",
    ]
    assert not list(corpus.parent.glob(f".{corpus.name}*"))
    for part in synth.PARTS:
        paths = sorted((corpus / part).rglob("*.flac"))
        for path in paths:
            speaker, chapter, number = path.stem.split("-")
            assert path.parent == corpus / part / speaker / chapter and len(number) == 4
        names = {path.stem for path in paths}
        assert names and names == set(transcripts(corpus, part)) == set(alignments(corpus, part))


def test_audio_is_16_khz_mono_16_bit_neither_clipped_nor_digitally_silent(corpus):
    for path in corpus.rglob("*.flac"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype, info.format) == (16000, 1, "PCM_16", "FLAC")
    for wave in audio(corpus).values():
        assert np.abs(wave).max() < 0.95
        assert -30 < 20 * np.log10(wave.std()) < -20
        frames = wave[: len(wave) // 160 * 160].reshape(-1, 160)
        assert frames.std(axis=1).min() > 1e-4


def test_total_duration_and_sentence_durations(corpus):
    seconds = np.array([len(wave) / 16000 for wave in audio(corpus).values()])
    assert seconds.sum() / 60 == pytest.approx(MINUTES, rel=0.05)
    assert seconds.min() > 1 and seconds.max() < 8 and 2.8 < seconds.mean() < 4.2


def test_many_speakers_with_few_sentences_have_the_total_duration(tmp_path):
    summary = synth.synthesize(tmp_path / "corpus", 2, 12, SEED)
    assert sum(part["minutes"] for part in summary["parts"].values()) == pytest.approx(2, rel=0.05)


def test_summary_counts_the_corpus(corpus):
    summary = json.loads((corpus / "corpus.json").read_text())
    assert summary["parameters"]["seed"] == SEED and len(summary["speakers"]) == SPEAKERS
    for part in synth.PARTS:
        texts, waves = transcripts(corpus, part), audio(corpus, part)
        assert summary["parts"][part]["utterances"] == len(texts)
        assert summary["parts"][part]["words"] == sum(len(text.split()) for text in texts.values())
        assert summary["parts"][part]["minutes"] == pytest.approx(sum(map(len, waves.values())) / 16000 / 60, abs=0.001)


def test_dev_shares_neither_speakers_nor_sentences_with_train(corpus):
    train, dev = transcripts(corpus, "train"), transcripts(corpus, "dev")
    assert not {name.split("-")[0] for name in train} & {name.split("-")[0] for name in dev}
    assert not set(train.values()) & set(dev.values())


@pytest.mark.parametrize("speakers", [2, 5, 8, 12, 16, 30])
def test_dev_has_its_share(speakers):
    dev = synth._dev_speakers(speakers)
    assert dev >= (2 if speakers >= 8 else 1) and speakers - dev >= 1
    for minutes in (10, 20, 300):
        seconds = synth._seconds_per_speaker(minutes, speakers)
        assert seconds["dev"] * dev + seconds["train"] * (speakers - dev) == pytest.approx(60 * minutes)
        assert 90 <= seconds["dev"] * dev <= 0.2001 * 60 * minutes


def test_parts_share_no_sentence_for_any_speaker():
    said = {
        part: {
            words
            for number in range(3)
            for words in itertools.islice(synth.sentences(1, synth.roster_speaker(number, part, 1)), 2000)
        }
        for part in synth.PARTS
    }
    assert not said["train"] & said["dev"]


# ---- the words ----


def test_transcripts_are_sentences_of_the_grammar(corpus):
    words = {word.upper() for word in grammar.VOCABULARY}
    for part in synth.PARTS:
        for text in transcripts(corpus, part).values():
            assert set(text.split(" ")) <= words
            assert 3 <= len(text.split()) <= 14


def test_vocabulary_is_small_and_its_words_are_frequent():
    rng = random.Random(0)
    sentences = [grammar.sentence(rng) for _ in range(4000)]
    counts = defaultdict(int)
    for word in " ".join(sentences).split():
        counts[word] += 1
    assert 200 <= len(grammar.VOCABULARY) <= 350
    assert set(counts) == set(grammar.VOCABULARY)
    assert min(counts.values()) >= 10
    assert all(word and set(word) <= set("abcdefghijklmnopqrstuvwxyz'") for word in grammar.VOCABULARY)
    assert 7 < np.mean([len(sentence.split()) for sentence in sentences]) < 10
    assert len(set(sentences)) > 3800


def test_grammar_has_no_empty_alternatives_and_no_unused_rules():
    assert all(choice for rule in grammar.RULES.values() for choice in rule)
    used = {word for rule in grammar.RULES.values() for choice in rule for word in choice}
    assert set(grammar.RULES) - used == {"SENTENCE"}


# ---- Spanish ----


def test_spanish_corpus(tmp_path):
    """Its utterances have other ids than the English ones, and transcripts that `dinosr manifest` reads."""
    out = tmp_path / "spanish"
    summary = synth.synthesize(out, 0.6, 3, SEED, workers=1, language="es")
    assert summary["parameters"] == {"recipe": 1, "minutes": 0.6, "speakers": 3, "seed": SEED, "language": "es"}
    words = {word.upper() for rule in spanish.RULES.values() for choice in rule for word in choice}
    for split in librispeech_splits(out, None, 1):
        texts = transcripts(out, split.name)
        assert [row.words for row in split.utterances] == [texts[Path(row.path).stem] for row in split.utterances]
        assert texts and all(name.startswith("1000") for name in texts)
        assert {word for text in texts.values() for word in text.split()} <= words
        assert {phone for phones in alignments(out, split.name).values() for *_, phone in phones} <= SPANISH | {"SIL"}
    with pytest.raises(UserError, match="contains a corpus made with .*'language': 'es'"):
        synth.synthesize(out, 0.6, 3, SEED, workers=1)


def test_every_spanish_voice_speaks_in_known_phones():
    rng = random.Random(3)
    words = {word for rule in spanish.RULES.values() for choice in rule for word in choice if word.islower()}
    sentences = [grammar.punctuated(grammar.sentence(rng, spanish.RULES), spanish.QUESTION_WORDS) for _ in range(150)]
    for number, (voice, *settings) in enumerate(spanish.VOICES):
        accent = voice.split("+")[0]
        first_of_accent = number in (0, 2)  # a variant changes the voice, not the phones
        with espeak.Espeak(voice, *settings) as talker:
            texts = [*sorted(words), *sentences] if first_of_accent else sentences[:3]
            said = {phone for text in texts for phone in pronounced(talker, accent, text)}
        assert said <= SPANISH, voice
        assert not first_of_accent or said == SPANISH - {"es": set(), "es-419": {"TH", "LL"}}[accent]


def test_spanish_grammar_has_no_empty_alternatives_and_no_unused_rules():
    assert all(choice for rule in spanish.RULES.values() for choice in rule)
    used = {word for rule in spanish.RULES.values() for choice in rule for word in choice if word.isupper()}
    assert set(spanish.RULES) - used == {"SENTENCE"} and used <= set(spanish.RULES)


# ---- the phones ----


def pronounced(talker: espeak.Espeak, accent: str, text: str) -> list[str]:
    wave, segments = talker.speak(text)
    return [phone.name for phone in espeak.phones(segments, wave, accent) if phone.name != "SIL"]


def test_every_voice_can_say_every_word_in_known_phones():
    """An unknown mnemonic raises KeyError. Words are tested alone and in sentences, which change some phones."""
    rng = random.Random(3)
    texts = [*grammar.VOCABULARY, *(grammar.punctuated(grammar.sentence(rng)) for _ in range(40))]
    for voice, pitch, pitch_range, rate in synth._VOICES:
        accent = voice.split("+")[0]
        with espeak.Espeak(voice, pitch, pitch_range, rate) as talker:
            said = {phone for text in texts for phone in pronounced(talker, accent, text)}
        missing = {"en-us": set(), "en": {"ER"} - said, "en-029": {"TH", "DH"}}[accent]
        assert said == ARPABET - missing, voice


@pytest.mark.parametrize(
    ("accent", "word", "expected"),
    [
        ("en-us", "girl", "G ER L"),
        ("en-us", "water", "W AO T ER"),
        ("en-us", "here", "HH IH R"),
        ("en-us", "mary", "M EH R IY"),
        ("en-us", "treasure", "T R EH ZH ER"),
        ("en-us", "judge", "JH AH JH"),
        ("en-us", "thumb", "TH AH M"),
        ("en-us", "fire", "F AY ER"),
        ("en-us", "wasn't", "W AH Z N T"),
        ("en", "here", "HH IY AH"),
        ("en", "garden", "G AA D AH N"),
        ("en", "voice", "V OY S"),
        ("en-029", "tooth", "T UW T"),
        ("es", "cerveza", "TH EH R B EH TH AA"),
        ("es-419", "cerveza", "S EH R B EH S AA"),
        ("es", "guitarra", "G IY T AA RR AA"),
        ("es", "jueves", "HH W EH B EH S"),
        ("es", "niño", "N IY NY AO"),
        ("es", "llave", "LL AA B EH"),
        ("es-419", "llave", "Y AA B EH"),
        ("es", "hay", "AA Y"),
        ("es", "coche", "K AO CH EH"),
    ],
)
def test_pronunciations(accent, word, expected):
    with espeak.Espeak(accent) as talker:
        assert " ".join(pronounced(talker, accent, word)) == expected


def test_a_stop_begins_with_its_closure():
    """300 samples of vowel, 200 of silence that eSpeak reports as part of the vowel, then the release."""
    wave = np.concatenate([np.full(300, 9000), np.zeros(200), np.full(100, 9000)]).astype(np.int16)
    segments = [espeak.Segment(0, 500, "a"), espeak.Segment(500, 600, "t")]
    assert espeak.phones(segments, wave, "en-us") == [espeak.Segment(0, 300, "AE"), espeak.Segment(300, 600, "T")]


def test_l_pronounced_within_its_vowel_gets_part_of_it():
    segments = [espeak.Segment(0, 5000, "3:"), espeak.Segment(5000, 5000, "l"), espeak.Segment(5000, 7000, "_:")]
    found = espeak.phones(segments, np.full(7000, 9000, np.int16), "en-us")
    assert [(phone.name, phone.start, phone.end) for phone in found] == [
        ("ER", 0, 3000),
        ("L", 3000, 5000),
        ("SIL", 5000, 7000),
    ]


def test_alignment_covers_every_utterance_without_gaps(corpus):
    for part in synth.PARTS:
        waves = audio(corpus, part)
        for utterance, phones in alignments(corpus, part).items():
            assert {phone for *_, phone in phones} <= ARPABET | {"SIL"}
            assert float(phones[0][0]) == 0.0
            assert float(phones[-1][1]) == pytest.approx(len(waves[utterance]) / 16000, abs=6e-4)
            assert all(before[1] == after[0] for before, after in itertools.pairwise(phones))
            assert all(float(end) - float(start) >= 0.005 for start, end, _ in phones)
            assert phones[0][2] == phones[-1][2] == "SIL"


def measured(corpus: Path, shift: float = 0.0) -> dict[str, tuple[float, float]]:
    """Phone -> median level in dB and median spectral centroid in Hz, with the times shifted by ``shift`` seconds."""
    found = defaultdict(list)
    for part in synth.PARTS:
        waves = audio(corpus, part)
        for utterance, phones in alignments(corpus, part).items():
            for start, end, phone in phones:
                piece = waves[utterance][
                    max(0, round(16000 * (float(start) + shift))) : round(16000 * (float(end) + shift))
                ]
                if len(piece) > 200:
                    power = np.abs(np.fft.rfft(piece * np.hanning(len(piece)))) ** 2
                    centroid = np.fft.rfftfreq(len(piece), 1 / 16000) @ power / power.sum()
                    found[phone].append((10 * np.log10(np.mean(piece**2)), centroid))
    return {phone: tuple(np.median(values, axis=0)) for phone, values in found.items()}


def test_phone_times_match_the_audio(corpus):
    sound = measured(corpus)
    for vowel in VOWELS & set(sound):
        assert sound["SIL"][0] < sound[vowel][0] - 20
        assert sound["S"][0] < sound[vowel][0]
        for sibilant in ("S", "SH"):
            assert sound[sibilant][1] > 2000 + sound[vowel][1]
    moved = measured(corpus, shift=0.08)
    assert moved["S"][1] < sound["S"][1] - 1000  # the checks above would detect a shifted alignment
    assert moved["SIL"][0] > sound["SIL"][0] + 1


def test_boundaries_of_s_and_vowel_are_within_25_ms_of_the_change_in_the_audio(corpus):
    """Between S and a vowel the zero-crossing rate falls or rises; the alignment must have a boundary there."""
    errors = []
    for part in synth.PARTS:
        waves = audio(corpus, part)
        for utterance, phones in alignments(corpus, part).items():
            for (start, boundary, before), (_, end, after) in itertools.pairwise(phones):
                if (before in ("S", "SH")) != (after in ("S", "SH")) and {before, after} & VOWELS:
                    wave = waves[utterance][round(16000 * float(start)) : round(16000 * float(end))]
                    errors.append(abs(step_in_crossings(wave) / 16000 - (float(boundary) - float(start))))
    assert len(errors) > 20
    assert np.median(errors) < 0.010 and np.quantile(errors, 0.9) < 0.025


def step_in_crossings(wave: np.ndarray) -> int:
    """The sample that best separates a part of ``wave`` with many zero crossings from a part with few."""
    crossings = np.abs(np.diff(np.signbit(wave).astype(float)))
    mass, size = np.cumsum(crossings), np.arange(1, len(crossings) + 1)
    rest = np.maximum(len(crossings) - size, 1)
    between = size * rest * (mass / size - (mass[-1] - mass) / rest) ** 2
    return int(between[80:-80].argmax()) + 80


# ---- the speakers ----


def mean_spectrum(wave: np.ndarray) -> np.ndarray:
    """Mean power in 20 bands up to 8 kHz, in dB relative to the whole."""
    frames = wave[: len(wave) // 512 * 512].reshape(-1, 512) * np.hanning(512)
    power = (np.abs(np.fft.rfft(frames)) ** 2).mean(axis=0)[1:241].reshape(20, 12).sum(axis=1)
    return 10 * np.log10(power / power.sum())


def median_pitch(wave: np.ndarray) -> float:
    """Median pitch in Hz, from the autocorrelation of the loud and periodic frames."""
    found = []
    for start in range(0, len(wave) - 1024, 480):
        frame = wave[start : start + 1024] - wave[start : start + 1024].mean()
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frame, 2048)) ** 2)[:320]
        lag = 40 + correlation[40:].argmax()
        if np.mean(frame**2) > 1e-4 and correlation[lag] > 0.5 * correlation[0]:
            found.append(16000 / lag)
    return float(np.median(found))


def portrait(wave: np.ndarray) -> np.ndarray:
    """21 numbers that describe a speaker: the mean spectrum and the pitch (an octave counts as much as 20 dB)."""
    return np.append(mean_spectrum(wave), 20 * np.log2(median_pitch(wave)))


def recorded(index: int, seed: int = SEED, sentences: int = 6) -> list[np.ndarray]:
    job = synth._Job(synth.roster_speaker(index, "train", seed), 60.0, seed, Path())
    return [spoken.wave / 32768 for spoken in itertools.islice(synth._utterances(job), sentences)]


def test_speakers_differ_more_from_one_another_than_from_themselves():
    halves = []
    for index in range(len(synth._VOICES)):
        waves = recorded(index, sentences=14)
        halves.append([portrait(np.concatenate(waves[half::2])) for half in range(2)])
    within = [np.linalg.norm(first - second) for first, second in halves]
    between = [np.linalg.norm(a[0] - b[0]) for a, b in itertools.combinations(halves, 2)]
    assert len(halves) >= 12
    assert min(between) > np.median(within) and np.median(between) > 3 * np.median(within)
    nearest = [min(range(len(halves)), key=lambda j: np.linalg.norm(first - halves[j][1])) for first, _ in halves]
    assert np.mean(np.array(nearest) == np.arange(len(halves))) > 0.9


def test_men_and_women_differ_in_pitch():
    assert median_pitch(np.concatenate(recorded(1))) > 1.4 * median_pitch(np.concatenate(recorded(0)))


def test_speakers_beyond_the_number_of_voices_differ():
    size = len(synth._VOICES)
    first, again = synth.roster_speaker(1, "train", SEED), synth.roster_speaker(size + 1, "train", SEED)
    assert again.voice == first.voice and abs(again.pitch - first.pitch) >= 10 and abs(again.rate - first.rate) >= 10
    pitches = [median_pitch(np.concatenate(recorded(index))) for index in (1, size + 1)]
    assert abs(np.log2(pitches[0] / pitches[1])) > 0.05
    many = [synth.roster_speaker(index, "train", SEED) for index in range(5 * size)]
    assert len({(s.voice, s.pitch, s.rate) for s in many}) > 4.9 * size
    assert all(0 <= s.pitch <= 100 and 80 <= s.rate <= 450 for s in many)


# ---- repeated runs and errors ----


def test_a_finished_corpus_is_not_changed(corpus, capsys):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    summary = synth.synthesize(corpus, MINUTES, SPEAKERS, SEED)
    assert summary == json.loads((corpus / "corpus.json").read_text())
    assert before == {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert "nothing to do" in capsys.readouterr().out


def test_other_contents_are_never_touched(corpus, tmp_path):
    with pytest.raises(UserError, match="choose another --out or remove"):
        synth.synthesize(corpus, MINUTES, SPEAKERS, SEED + 1)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear reader")
    with pytest.raises(UserError, match="choose another --out or remove"):
        synth.synthesize(tmp_path / "letters", 0.5, 2, SEED)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "dear reader"


def test_files_of_an_interrupted_run_are_removed(tmp_path):
    leftover = tmp_path / ".corpus.unfinished.123" / "train" / "1" / "1"
    leftover.mkdir(parents=True)
    (leftover / "1-1-0000.flac").write_bytes(b"half a file")
    (tmp_path / "corpus").mkdir()  # an empty folder counts as free
    synth.synthesize(tmp_path / "corpus", 0.5, 2, SEED, workers=1)
    synth.synthesize(tmp_path / "clean", 0.5, 2, SEED, workers=1)
    assert digests(tmp_path / "corpus") == digests(tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "corpus"]


@pytest.mark.parametrize(
    ("minutes", "speakers", "message"),
    [(5, 1, "at least 2"), (0.1, 2, "raise --minutes"), (0, 4, "positive"), (float("nan"), 4, "positive")],
)
def test_invalid_parameters(tmp_path, minutes, speakers, message):
    with pytest.raises(UserError, match=message):
        synth.synthesize(tmp_path / "corpus", minutes, speakers, SEED)
    assert not list(tmp_path.iterdir())


def test_without_the_wheel(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"pip install \"dinosr-plugin\[synth\]\""):
        synth.synthesize(tmp_path / "corpus", 1, 2, SEED)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as error:
        synth.synthesize(tmp_path / "file" / "corpus", 0.5, 2, SEED)
    assert "\n" not in str(error.value)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synth, "write_sound", full_disk)
    with pytest.raises(UserError, match="--out .*corpus: cannot be written .No space left on device.; free some space"):
        synth.synthesize(tmp_path / "corpus", 0.5, 2, SEED, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("voice", ["nobody", "en-us+nobody"])
def test_an_unknown_voice_is_named(voice):
    with pytest.raises(UserError, match="nobody"):
        espeak.Espeak(voice)


def test_a_signal_while_the_library_speaks_is_not_lost():
    """It arrives while the library calls Python, where ctypes would forget the exception."""
    with espeak.Espeak("en-us") as talker:
        receive = talker._receive
        talker._callback = espeak._Callback(lambda *given: signal.raise_signal(signal.SIGINT) or receive(*given))
        talker._lib.espeak_SetSynthCallback(talker._callback)
        with pytest.raises(KeyboardInterrupt):
            talker.speak("one two three")


def test_output_of_the_library_is_suppressed(capfd):
    with espeak._silent_stderr():
        os.write(2, b"output of C")
    os.write(2, b"output of Python")
    assert capfd.readouterr().err == "output of Python"
