"""The fine-tuning task: dictionaries, data, batches, options, and its configuration files."""

import dataclasses
import json
import logging
import re
import shutil
import sys

import numpy as np
import pytest
import soundfile
from fairseq import options
from fairseq.criterions.ctc import CtcCriterionConfig
from fairseq.data import Dictionary
from fairseq.dataclass.configs import CommonEvalConfig, GenerationConfig
from fairseq.dataclass.initialize import add_defaults
from fairseq_cli import generate
from fairseq_cli.hydra_train import _hydra_main
from omegaconf import OmegaConf

import dinosr_plugin  # noqa: F401  (registers the task)
from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.decoding import BeamDecoder, BestPathDecoder, LexiconDecoder, SearchOptions
from dinosr_plugin.decoding.scorer import IntervalScorerConfig
from dinosr_plugin.errors import UserError
from dinosr_plugin.modules.frame_grid import MEL
from dinosr_plugin.tasks.finetuning import (
    AUDIO_MAX_TOKENS,
    FAIRSEQ_MAX_TOKENS,
    DinoSRFinetuningConfig,
    DinoSRFinetuningTask,
    audio_batch_size,
    frames_needed,
)
from dinosr_plugin.tasks.generation import score_words
from support import paths
from support.training import PLUGIN, SMALL, read_config

CONFIGS = paths.CONFIGS / "finetuning"
SAMPLES = [16000, 9000, 12000, 8000, 4000]


@pytest.fixture
def data(tmp_path):
    """Five sounds with transcripts, and a dictionary."""
    rng = np.random.default_rng(0)
    rows = [str(tmp_path)]
    for i, samples in enumerate(SAMPLES):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(samples) + 0.2, 16000)
        rows.append(f"{i}.wav\t{samples}")
    (tmp_path / "dev.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "dev.ltr").write_text("A | B |\n" * len(SAMPLES))
    write_dictionary(tmp_path, ["|", "A", "B"])
    return tmp_path


def write_dictionary(folder, symbols):
    (folder / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols))


def make_task(data, **fields):
    cfg = OmegaConf.structured(DinoSRFinetuningConfig(data=str(data), tpu=False, seed=1, **fields))
    return DinoSRFinetuningTask.setup_task(cfg)


def dictionary_of(symbols):
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return dictionary


# -- dictionary ------------------------------------------------------------------------------------------------------


def test_the_blank_is_the_first_symbol(data):
    task = make_task(data)
    assert task.target_dictionary.index(task.blank_symbol) == 0
    assert len(task.target_dictionary) == 4 + 3


@pytest.mark.parametrize(
    "symbols, message",
    [(["|", "B", "A"], "index 5 is 'A'"), (["|", "A"], r"7 symbols.*6 symbols.*'B'.*nothing in the checkpoint")],
)
def test_a_checkpoint_with_another_dictionary_is_refused(data, symbols, message):
    with pytest.raises(UserError, match=message) as error:
        make_task(data).load_state_dict({"target_dictionary": dictionary_of(symbols)})
    assert str(data / "dict.ltr.txt") in str(error.value) and "checkpoint" in str(error.value)


def test_a_checkpoint_with_the_same_dictionary_is_accepted(data):
    saved = dictionary_of(["|", "A", "B"])
    task = make_task(data)
    task.load_state_dict({"target_dictionary": saved})
    assert task.target_dictionary is saved


def test_a_checkpoint_brings_its_dictionary_where_the_data_has_none(data):
    (data / "dict.ltr.txt").unlink()
    task = make_task(data)
    task.load_state_dict({"target_dictionary": dictionary_of(["X"])})
    assert "X" in task.target_dictionary


def test_faulty_dictionaries(data):
    (data / "dict.ltr.txt").write_text("A\n")
    with pytest.raises(UserError, match=r"dict\.ltr\.txt"):
        _ = make_task(data).target_dictionary
    (data / "dict.ltr.txt").unlink()
    with pytest.raises(UserError, match=r"dict\.ltr\.txt: no such file"):
        _ = make_task(data).target_dictionary


# -- data ------------------------------------------------------------------------------------------------------------


def test_labels_of_other_data_are_normalised_as_those_of_the_target_dictionary(data, tmp_path):
    """... without rules beside that dictionary, they stay as they are."""
    trained = tmp_path / "trained"
    trained.mkdir()
    write_dictionary(trained, ["|", "a", "b"])
    for rules, labels in [(None, "A , | B |"), ("{}", "a | b |"), ('{"case": "upper"}', "A | B |")]:
        if rules:
            (trained / "text_normalization.json").write_text(rules)
        (data / "dev.ltr").write_text("A , | B |\n" * len(SAMPLES))
        task = make_task(data, target_dictionary=str(trained))
        task.load_dataset("dev")
        assert task.datasets["dev"].get_label(0).strip() == labels
    task = make_task(data, target_dictionary=str(trained), labels="ltr")
    (trained / "text_normalization.json").write_text("[]")
    with pytest.raises(UserError, match="text_normalization.json: contains no JSON object"):
        task.load_dataset("dev")


def test_decoding_normalises_as_training_did(data):
    given, saved = (
        make_task(data),
        OmegaConf.structured(DinoSRFinetuningConfig(data="elsewhere", normalize=True, tpu=False, seed=1)),
    )
    assert not given.cfg.normalize
    given.load_dataset("dev", task_cfg=saved)  # what fairseq-generate does
    source = given.dataset("dev")[0]["source"]
    assert abs(source.mean()) < 1e-4 and source.std() == pytest.approx(1, abs=1e-3)


def test_labels_must_be_those_of_the_checkpoint(data):
    for labels, message in (("phn", "give --labels phn"), (None, "without labels")):
        saved = OmegaConf.structured(DinoSRFinetuningConfig(data="elsewhere", labels=labels, tpu=False, seed=1))
        with pytest.raises(UserError, match=message):
            make_task(data).load_dataset("dev", task_cfg=saved)


def test_faulty_files_give_one_line(data):
    (data / "dev.ltr").write_text("A | B |\n")
    with pytest.raises(UserError, match=r"dev\.ltr"):
        make_task(data).load_dataset("dev")
    with pytest.raises(UserError, match=r"nowhere\.tsv"):
        make_task(data).load_dataset("nowhere")


@pytest.mark.parametrize(
    "fields, message", [({"autoregressive": True}, "autoregressive"), ({"labels": None}, "labels")]
)
def test_settings_that_cannot_work(data, fields, message):
    with pytest.raises(UserError, match=f"task.{message}"):
        make_task(data, **fields)


@pytest.mark.parametrize("label, frames", [("A B", 2), ("A A", 3), ("A A A", 5), ("", 0)])
def test_frames_that_a_label_needs(label, frames):
    assert frames_needed(label.split()) == frames


def test_transcripts_without_enough_frames_are_reported(data, caplog):
    labels = ["A | B |"] * 4 + ["A B " * 10]  # 40 labels; 4000 samples make 12 frames
    (data / "dev.ltr").write_text("\n".join(labels) + "\n")
    with caplog.at_level(logging.WARNING):
        make_task(data).load_dataset("dev")
    assert "1 utterances have more labels than frames, the first is number 4" in caplog.text
    caplog.clear()
    task = make_task(data)
    task.grid = MEL  # 23 frames
    with caplog.at_level(logging.WARNING):
        task.load_dataset("dev")
    assert "labels than frames" not in caplog.text


def test_transcripts_are_not_counted_where_nothing_is_trained(data, caplog):
    (data / "dev.ltr").write_text("\n".join(["A B " * 100] * 5) + "\n")
    task = make_task(data)
    with caplog.at_level(logging.WARNING):
        task.load_dataset("dev", task_cfg=task.cfg)
    assert "criterion.zero_infinity" not in caplog.text


def test_utterances_shorter_than_a_frame_are_not_trained_on(data):
    """fairseq's convolutions fail on a batch of them."""
    soundfile.write(data / "4.wav", np.full(399, 0.1), 16000)
    rows = (data / "dev.tsv").read_text().replace("4.wav\t4000", "4.wav\t399")
    (data / "dev.tsv").write_text(rows)
    task = make_task(data)
    task.load_dataset("dev")
    assert len(task.dataset("dev")) == 4 and 4 in task.dataset("dev").dataset.skipped_indices
    task.load_dataset("dev", task_cfg=task.cfg)
    assert len(task.dataset("dev")) == 5  # fairseq-generate counts its words
    (data / "dev.tsv").write_text(f"{data}\n4.wav\t399\n")
    (data / "dev.ltr").write_text("A |\n")
    with pytest.raises(UserError, match="^dev: every utterance is shorter than one frame of the model, 400 samples"):
        task.load_dataset("dev")


# -- batches ---------------------------------------------------------------------------------------------------------


def batches(task, **kwargs):
    task.load_dataset("dev")
    iterator = task.get_batch_iterator(
        task.dataset("dev"), max_positions=task.max_positions(), required_batch_size_multiple=8, **kwargs
    )
    return [sorted(batch) for batch in iterator.frozen_batches]


def test_no_utterance_is_left_out(data):
    found = batches(make_task(data), max_sentences=2)
    assert sorted(sum(found, [])) == [0, 1, 2, 3, 4]
    assert max(map(len, found)) == 2


def test_long_utterances_are_skipped_not_cropped(data):
    assert sorted(
        sum(batches(make_task(data, max_sample_size=9000), max_sentences=2, ignore_invalid_inputs=True), [])
    ) == [1, 3, 4]


def test_the_default_for_text_is_replaced(data):
    assert batches(make_task(data), max_tokens=FAIRSEQ_MAX_TOKENS) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    "longest, given, expected",
    [
        (16000, (FAIRSEQ_MAX_TOKENS, None), AUDIO_MAX_TOKENS),
        (2 * AUDIO_MAX_TOKENS, (FAIRSEQ_MAX_TOKENS, None), 2 * AUDIO_MAX_TOKENS),
        (16000, (50000, None), 50000),
        (16000, (None, 4), None),
        (9000, (FAIRSEQ_MAX_TOKENS, 4), FAIRSEQ_MAX_TOKENS),
    ],
)
def test_what_the_user_chose_is_kept(longest, given, expected):
    assert audio_batch_size(longest, *given) == expected


@pytest.mark.parametrize(
    "arguments, training, validation",
    [
        (
            [],
            "dataset.max_tokens=15000 is less",
            r"dataset.max_tokens_valid=15000 \(dataset.max_tokens, unless it is set\)",
        ),
        (
            ["--user-dir", "x"],
            "--max-tokens 15000 is less",
            r"--max-tokens-valid 15000 \(--max-tokens, unless it is set\)",
        ),
    ],
)
def test_the_field_that_was_set_is_named(data, monkeypatch, arguments, training, validation):
    """For ``fairseq-hydra-train``, and for the programs that take options."""
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    for suffix in ("tsv", "ltr"):
        shutil.copy(data / f"dev.{suffix}", data / f"train.{suffix}")
    task = make_task(data)
    task.load_dataset("dev")
    with pytest.raises(UserError, match=f"^{training} than the longest utterance, [0-9]+ samples; raise it or lower"):
        task.get_batch_iterator(task.dataset("dev"), max_tokens=15000)  # as fairseq-generate, which trains nothing
    task.load_dataset("train", data_selector=None)
    with pytest.raises(UserError, match=f"^{training}"):
        task.get_batch_iterator(task.dataset("train"), max_tokens=15000)
    with pytest.raises(UserError, match=f"^{validation} is less"):
        task.get_batch_iterator(task.dataset("dev"), max_tokens=15000)


# -- model -----------------------------------------------------------------------------------------------------------


def test_a_missing_checkpoint(data):
    with pytest.raises(UserError, match="model.w2v_path=nowhere.pt: no such file"):
        make_task(data).build_model(OmegaConf.create({"_name": "wav2vec_ctc", "w2v_path": "nowhere.pt"}))


def test_normalisation_must_be_that_of_pretraining(data):
    pretrained = {"model": {"_name": "dinosr"}, "task": {"_name": "dinosr_pretraining", "normalize": True}}
    cfg = OmegaConf.create(
        {"_name": "wav2vec_ctc", "w2v_path": "pretrained.pt", "w2v_args": pretrained, "normalize": False, "data": ""}
    )
    with pytest.raises(UserError, match="task.normalize=False: pre-training of pretrained.pt used True"):
        make_task(data, normalize=False).build_model(cfg)


def test_the_sample_rate_must_be_that_of_pretraining(data):
    state = {"cfg": OmegaConf.create({"task": {"sample_rate": 8000}, "model": {"_name": "dinosr"}})}
    with pytest.raises(UserError, match="task.sample_rate=16000: pre-training of model.w2v_path used 8000; give a pre"):
        make_task(data).adopt(state)
    state["cfg"].task.sample_rate = 16000
    assert make_task(data).adopt(state) is state


# -- decoding --------------------------------------------------------------------------------------------------------


def test_the_generator_has_the_decoder_that_was_chosen(data):
    generator = make_task(data, decoder="best_path").build_generator([], GenerationConfig())
    assert isinstance(generator.pool.decoder, BestPathDecoder) and generator.pool.decoder.blank == 0


@pytest.mark.parametrize(
    "option, value", [("sampling", True), ("prefix_size", 2), ("print_alignment", "soft"), ("lm_path", "lm.pt")]
)
def test_options_for_other_models_are_refused(data, option, value):
    with pytest.raises(UserError, match="--" + option.replace("_", "-")):
        make_task(data).build_generator([], GenerationConfig(**{option: value}))


SYMBOLS = {"letter": ["|", "A", "B"], "sentencepiece": ["\u2581A", "B"], "none": ["AA", "B"]}


def generation(scoring: str, post_process: str | None):
    """The parts of fairseq-generate's config that decide about its text and its score."""
    parts = {"generation": GenerationConfig(), "common_eval": CommonEvalConfig(post_process=post_process)}
    scorer = IntervalScorerConfig(_name="dinosr_wer") if scoring == "dinosr_wer" else {"_name": scoring}
    return OmegaConf.create({name: OmegaConf.structured(part) for name, part in {**parts, "scoring": scorer}.items()})


@pytest.mark.parametrize("scoring", ["wer", "dinosr_wer", "bleu"])
@pytest.mark.parametrize("kind", ["letter", "sentencepiece"])
def test_text_is_words_whether_or_not_that_is_asked_for(kind, scoring):
    for chosen in (None, kind):
        cfg = generation(scoring, chosen)
        score_words(cfg.generation, SYMBOLS[kind])
        assert cfg.common_eval.post_process == kind


def test_the_generator_of_the_task_returns_words(data, caplog):
    cfg = generation("dinosr_wer", None)
    with caplog.at_level(logging.INFO):
        make_task(data).build_generator([], cfg.generation)
    assert cfg.common_eval.post_process == "letter" and cfg.scoring.scored_unit == "word"
    message = "--post-process letter: chosen, because the dictionary has letters and the word boundary |"
    assert message in caplog.messages


def test_the_error_rate_of_phones_is_not_called_wer(caplog):
    cfg = generation("dinosr_wer", None)
    score_words(cfg.generation, SYMBOLS["none"])
    assert cfg.common_eval.post_process is None and cfg.scoring.scored_unit == "symbol"
    score_words(generation("wer", "none").generation, SYMBOLS["none"])
    assert "the error rate below counts symbols of the dictionary" in caplog.text


@pytest.mark.parametrize(
    "kind, scoring, chosen, message",
    [
        (
            "letter",
            "bleu",
            "sentencepiece",
            "--post-process sentencepiece: the dictionary has letters and the word bound",
        ),
        ("sentencepiece", "wer", "letter", "--post-process letter: the dictionary has word pieces; omit it"),
        (
            "none",
            "wer",
            "letter",
            "--post-process letter: the dictionary has neither the word boundary | nor word pieces",
        ),
        ("letter", "wer", "none", "--post-process none: --scoring wer would count symbols as words; omit one of them"),
        ("letter", "dinosr_wer", "none", "--post-process none: --scoring dinosr_wer would count symbols as words"),
    ],
)
def test_post_processing_of_other_symbols_is_refused(kind, scoring, chosen, message):
    with pytest.raises(UserError) as error:
        score_words(generation(scoring, chosen).generation, SYMBOLS[kind])
    assert str(error.value).startswith(message)


def test_scores_of_translations_are_pointed_out(caplog):
    score_words(generation("bleu", None).generation, SYMBOLS["letter"])
    assert "--scoring bleu, the default, is for translations; give --scoring dinosr_wer" in caplog.text


def test_symbols_can_be_printed_where_no_words_are_scored():
    cfg = generation("bleu", "none")
    score_words(cfg.generation, SYMBOLS["letter"])
    assert cfg.common_eval.post_process == "none"


def test_the_wer_of_validations_is_of_words(data, caplog):
    ctc = OmegaConf.structured(CtcCriterionConfig(_name="ctc", zero_infinity=True, sentence_avg=True))
    for symbols, chosen, right in (
        ("letter", "none", "letter"),
        ("letter", "sentencepiece", "letter"),
        ("sentencepiece", "letter", "sentencepiece"),
    ):
        write_dictionary(data, SYMBOLS[symbols])
        ctc.post_process = chosen
        with pytest.raises(UserError, match=f"^criterion.post_process={chosen}: .*set criterion.post_process={right}$"):
            make_task(data).build_criterion(ctc)
        ctc.post_process = right
        make_task(data).build_criterion(ctc)
    assert not caplog.records
    write_dictionary(data, SYMBOLS["none"])
    make_task(data).build_criterion(ctc)
    assert "the wer of validations is the share of wrong utterances; set criterion.post_process=none" in caplog.text


@pytest.mark.parametrize("decoder, kind", [("beam", BeamDecoder), ("lexicon", LexiconDecoder)])
def test_searches_get_what_was_chosen(data, decoder, kind):
    pytest.importorskip("flashlight", reason="pip install flashlight-text")
    (data / "train.wrd").write_text("A B\n")
    of_lexicon = {"lexicon": str(data / "train.wrd"), "word_score": 1.5} if decoder == "lexicon" else {}
    task = make_task(data, decoder=decoder, sil_weight=-0.5, beam_threshold=20.0, beam_size_token=3, **of_lexicon)
    generator = task.build_generator([], GenerationConfig(beam=17, nbest=2))
    assert isinstance(generator.pool.decoder, kind)
    assert generator.pool.decoder.options == SearchOptions(
        beam=17, nbest=2, sil_weight=-0.5, beam_threshold=20.0, beam_size_token=3, **of_lexicon
    )


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"lm": "lm.arpa"}, "--lm lm.arpa: not used by --decoder best_path; choose --decoder beam or lexicon"),
        ({"sil_weight": 1.0}, "--sil-weight 1.0: .* beam or lexicon"),
        (
            {"decoder": "beam", "lexicon": "train.wrd"},
            "--lexicon train.wrd: not used by --decoder beam; choose --decoder lexicon",
        ),
        ({"decoder": "beam", "word_score": -1.0}, "--word-score -1.0"),
    ],
)
def test_fields_that_a_decoder_would_ignore_are_refused(data, fields, message):
    with pytest.raises(UserError, match=message):
        make_task(data, **fields).build_generator([], GenerationConfig())


def test_a_language_model_weight_needs_a_model(data):
    with pytest.raises(UserError, match="--lm-weight 1: .*--lm FILE"):
        make_task(data).build_generator([], GenerationConfig(lm_weight=1.0))


def test_hard_alignments_are_allowed(data):
    assert make_task(data).build_generator([], GenerationConfig(print_alignment="hard"))


# -- configuration files ---------------------------------------------------------------------------------------------


def load_config(name, overrides=()):
    """As ``fairseq-hydra-train --config-path pkg://dinosr_plugin.config.finetuning --config-name NAME`` composes it."""
    cfg = read_config("finetuning", name, ["task.data=DATA", "model.w2v_path=CHECKPOINT", *overrides])
    add_defaults(cfg)
    return cfg


@pytest.mark.parametrize("name", ["base", "tiny"])
def test_configs_have_known_fields_and_our_fields_have_help(name):
    cfg = load_config(name)
    assert (cfg.task._name, cfg.model._name, cfg.criterion._name) == ("dinosr_finetuning", "wav2vec_ctc", "ctc")
    assert cfg.criterion.zero_infinity and cfg.checkpoint.best_checkpoint_metric == "wer"
    assert cfg.model.normalize == cfg.task.normalize
    fields = {field.name: field for field in dataclasses.fields(DinoSRFinetuningConfig)}
    listed = OmegaConf.load(CONFIGS / f"{name}.yaml").task
    assert [key for key in listed if key != "_name" and not fields[key].metadata.get("help")] == []


@pytest.mark.parametrize("name", ["base", "tiny"])
def test_what_people_change_can_be_overridden(name):
    changes = [
        "model.no_pretrained_weights=true",
        "model.load_ema=true",
        "model.mask_channel_prob=0.1",
        "task.max_sample_size=320000",
    ]
    changes += [
        "dataset.batch_size=4",
        "optimization.lr=[0.0001]",
        "checkpoint.save_dir=there",
        "common.tensorboard_logdir=there",
    ]
    cfg = load_config(name, changes)
    assert cfg.model.no_pretrained_weights and cfg.task.max_sample_size == 320000


def test_decoders_can_be_chosen():
    changes = [
        "task.decoder=lexicon",
        "task.lm=lm.arpa",
        "task.lexicon=train.wrd",
        "task.word_score=1",
        "task.beam_threshold=25",
    ]
    assert load_config("tiny", changes).task.decoder == "lexicon"


@pytest.mark.parametrize("name", ["base", "tiny"])
def test_configs_list_every_field_of_the_decoders_with_its_default(name):
    listed = OmegaConf.load(CONFIGS / f"{name}.yaml").task
    for key in ("decoder", "lm", "lexicon", "word_score", "sil_weight", "beam_threshold", "beam_size_token"):
        assert str(listed[key]) == str(getattr(DinoSRFinetuningConfig(), key))


def test_misspelt_overrides_are_refused():
    with pytest.raises(UserError, match="^model.mask_prop: there is no such field; did you mean mask_prob?"):
        load_config("tiny", ["model.mask_prop=0.5"])


# -- word pieces -----------------------------------------------------------------------------------------------------


def train(stage, name, *overrides):
    """What ``fairseq-hydra-train`` does with this config, in this process."""
    logging.getLogger("fairseq.logging.progress_bar").setLevel(
        logging.INFO
    )  # what fills common.log_file; pytest keeps it at WARNING
    common = [f"common.user_dir={PLUGIN}", "dataset.num_workers=0", "common.tensorboard_logdir=null"]
    _hydra_main(read_config(stage, name, [*common, *overrides]))


def test_pieces_are_trained_validated_and_decoded_to_words(tmp_path, caplog):
    """Fine-tuning on pieces: the WER of validation, on words, is that of ``--post-process sentencepiece``."""
    pytest.importorskip("sentencepiece", reason="pip install sentencepiece")
    texts = ["HELLO WORLD", "HELLO YELLOW DAY", "IT'S A DAY", "WORLD HELLO", "A DAY", "YELLOW WORLD"]
    data, rng = tmp_path / "data", np.random.default_rng(0)
    (tmp_path / "corpus").mkdir()
    for n, text in enumerate(texts):
        soundfile.write(tmp_path / f"corpus/{n}.wav", rng.normal(0, 0.1, 16000 + 500 * n), 16000)
        (tmp_path / f"corpus/{n}.txt").write_text(text)
    assert (
        dinosr(
            ["manifest", "folder", str(tmp_path / "corpus"), "--out", str(data), "--valid-share", "0", "--bpe", "20"]
        )
        == 0
    )
    here = [f"task.data={data}", "checkpoint.save_dir=" + str(tmp_path)]
    train(
        "pretraining",
        "dinosr_tiny",
        *here,
        *(f"model.{setting}" for setting in SMALL),
        "task.min_sample_size=8000",
        "optimization.max_update=20",
    )
    (tmp_path / "checkpoint_last.pt").rename(tmp_path / "pretrained.pt")
    pieces = [
        "task.labels=bpe",
        "criterion.post_process=sentencepiece",
        "dataset.valid_subset=train",
        "model.mask_channel_prob=0",
    ]
    length = [
        "optimization.max_update=30",
        "checkpoint.save_interval_updates=15",
        "dataset.validate_interval_updates=15",
    ]
    train(
        "finetuning",
        "tiny",
        *here,
        *pieces,
        *length,
        f"common.log_file={tmp_path}/log",
        f"model.w2v_path={tmp_path}/pretrained.pt",
    )

    logged = [
        json.loads(line) for line in re.findall(r'{.*"train_wer".*}', (tmp_path / "log").read_text())
    ]  # train is the split's name here
    assert len(logged) >= 2 and all("train_uer" in line for line in logged)
    assert all(0 <= float(line["train_empty_texts"]) <= 100 for line in logged)
    all_empty = [line for line in logged if float(line["train_empty_texts"]) == 100]
    assert caplog.text.count("all 6 hypotheses of the validation are empty") == len(all_empty)
    arguments = [
        data,
        "--task",
        "dinosr_finetuning",
        "--user-dir",
        PLUGIN,
        "--path",
        tmp_path / "checkpoint_best.pt",
        "--gen-subset",
        "train",
    ]
    arguments += [
        "--labels",
        "bpe",
        "--scoring",
        "wer",
        "--post-process",
        "sentencepiece",
        "--num-workers",
        "0",
        "--cpu",
        "--results-path",
        tmp_path,
    ]
    parser = options.get_generation_parser()
    parser.add_argument("--arch", default="wav2vec2")  # as fairseq-generate does
    generate.main(options.parse_args_and_arch(parser, input_args=list(map(str, arguments))))
    result = (tmp_path / "generate-train.txt").read_text()
    assert sorted(re.findall(r"^T-\d+\t(.*)", result, re.M)) == sorted(texts)
    decoded = re.findall(r"^D-\d+\t\S+\t?(.*)", result, re.M)
    assert len(decoded) == 6 and any(" " in words for words in decoded) and "\u2581" not in "".join(decoded)
    # Unlike decoding, validation may output <pad> or <unk> while they are probable: this early the two may differ.
    wer, logged_wers = float(re.search(r"WER: ([\d.]+)", result)[1]), [float(line["train_wer"]) for line in logged]
    assert wer == pytest.approx(min(logged_wers), rel=0.3)
    words = sum(len(text.split()) for text in texts)
    for rate in (wer, *logged_wers):
        assert rate * words / 100 == pytest.approx(round(rate * words / 100), abs=0.01), "errors are words"
