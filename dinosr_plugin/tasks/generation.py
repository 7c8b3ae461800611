"""The part of the fine-tuning task that ``fairseq-generate`` needs: its settings, and the generator they describe."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

from fairseq.data import FairseqDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig
from omegaconf import OmegaConf

from .. import compat
from ..decoding import DECODERS, CTCGenerator, SearchOptions, build_decoder
from ..decoding.emissions import EmissionMetadata, EmissionReader, EmissionWriter, fingerprint
from ..decoding.pool import default_processes
from ..decoding.search import check_decoder_options
from ..decoding.words import symbol_kind
from ..errors import UserError
from ..files import kind_of
from ..ranges import COUNT, SCORE, Range

logger = logging.getLogger(__name__)

UNSUPPORTED_GENERATION = {
    "score_reference": False,
    "print_step": False,
    "retain_iter_history": False,
    "sampling": False,
    "prefix_size": 0,
    "constraints": None,
}
"""Options of fairseq-generate that have no meaning for CTC, with the value that they must keep."""

SYMBOL_KINDS = {
    "letter": "letters and the word boundary |",
    "sentencepiece": "word pieces",
    "none": "neither the word boundary | nor word pieces",
}
"""Kind of symbols (``symbol_kind``) -> how messages describe it."""


@dataclass
class DecodingConfig(AudioFinetuningConfig):
    decoder: ChoiceEnum(list(DECODERS)) = field(
        default="best_path",
        metadata={
            "help": "how fairseq-generate turns frames into text; best_path: most probable symbol of each frame, "
            "without a language model; beam: most probable text, with a language model of symbols if lm or --lm-path "
            "is given; lexicon: words of the lexicon, with a language model of words if lm is given. The searches keep "
            "--beam hypotheses (fairseq's default of 5 is too few; use 50 to 500) and require flashlight-text"
        },
    )
    lm: Optional[str] = field(
        default=None,
        metadata={
            "help": "n-gram model in a format that KenLM reads (.arpa, .bin), whose log10 probabilities are multiplied "
            "by --lm-weight (0.5 to 2 is usual)"
        },
    )
    lexicon: Optional[str] = field(
        default=None,
        metadata={
            "help": "for decoder=lexicon: file with lines 'word l e t t e r s |', or transcripts (train.wrd), whose "
            "words are spelled letter by letter"
        },
    )
    word_score: float = field(
        default=0.0,
        metadata={
            "range": SCORE,
            "help": "for decoder=lexicon: added for each word; above 0 compensates for words that a language model "
            "deletes",
        },
    )
    sil_weight: float = field(
        default=0.0,
        metadata={
            "range": SCORE,
            "help": "silence score, for decoder=beam and lexicon: added for each frame of the word boundary |",
        },
    )
    beam_threshold: float = field(
        default=50.0,
        metadata={
            "range": Range(0, 1e6, exclude_low=True, exclude_high=True),
            "help": "for decoder=beam and lexicon: drop hypotheses whose score is more than this (natural logarithm) "
            "below the best; lower is faster",
        },
    )
    beam_size_token: int = field(
        default=100,
        metadata={
            "range": COUNT,
            "help": "for decoder=beam and lexicon: number of most probable symbols of each frame that are tried; lower "
            "is faster",
        },
    )
    emissions: Optional[str] = field(
        default=None,
        metadata={
            "help": "file (.npz) for the output of the network: written if it does not exist, otherwise read, to "
            "decode many times without the network. `dinosr tune-lm` reads it too"
        },
    )
    decoder_processes: Optional[int] = field(
        default=None,
        metadata={
            "range": Range(0, 1_000),
            "help": "for decoder=beam and lexicon: processes that search while the network computes; 0: search in the "
            "main process (default: one per CPU, at most 16); affects the time, not the result",
        },
    )


class Decoding:
    """Mixin of a fairseq task for CTC models with ``cfg``, ``target_dictionary``, ``blank_symbol`` and ``datasets``."""

    batches: EpochBatchIterator | None = None  # the latest

    def build_generator(
        self, models: Sequence, args: Any, seq_gen_cls=None, extra_gen_cls_kwargs=None, **kwargs
    ) -> CTCGenerator:
        """The generator of ``fairseq-generate``; ``task.decoder`` selects its decoder.

        Args:
            models: the models that will be run.
            args: fairseq's ``GenerationConfig``.
            extra_gen_cls_kwargs: ``lm_model`` is fairseq's language model, if any.
            seq_gen_cls: part of fairseq's calling convention.
        """
        check_generation_options(args)
        check_decoder_options(self.cfg)
        score_words(args, self.target_dictionary.symbols)
        blank = self.target_dictionary.index(self.blank_symbol)
        lm = (extra_gen_cls_kwargs or {}).get("lm_model")  # from --lm-path
        decoder = build_decoder(
            str(self.cfg.decoder), self.target_dictionary, blank, search_options(self.cfg, args), lm
        )
        processes = default_processes() if self.cfg.decoder_processes is None else self.cfg.decoder_processes
        generator = CTCGenerator(decoder, self.target_dictionary, blank, processes, self.emissions_file(models, blank))
        if self.batches is not None:
            compat.transform_batches(self.batches, partial(generator.prefetch, models))
        return generator

    def emissions_file(self, models: Sequence, blank: int) -> EmissionReader | EmissionWriter | None:
        """``task.emissions``: a reader, after a check that the file belongs to these models and data, or a writer."""
        if self.cfg.emissions is None:
            return None
        (dataset,) = self.datasets.values()
        if self.cfg.multi_corpus_keys is not None:
            raise UserError("--emissions: not supported for several corpora at once; decode them one after the other")
        meta = self.describe(dataset, models, blank)
        if kind_of(self.cfg.emissions) != "nothing":
            reader = EmissionReader(self.cfg.emissions)
            reader.require_same(meta)
            return reader
        if self.batches is not None and (
            self.batches.num_shards > 1 or sum(map(len, self.batches.frozen_batches)) < len(dataset)
        ):
            raise UserError(
                f"--emissions {self.cfg.emissions}: must contain whole manifests, but some utterances would be left "
                "out; remove --max-sample-size, --distributed-world-size or any other cause, or --emissions"
            )
        return EmissionWriter(self.cfg.emissions, meta)

    def describe(self, dataset: FairseqDataset, models: Sequence, blank: int) -> EmissionMetadata:
        sounds, rows = dataset.dataset, range(len(dataset))
        return EmissionMetadata(
            model=fingerprint(models),
            symbols=list(self.target_dictionary.symbols),  # a copy: fairseq-generate adds the words it encounters
            blank=blank,
            root=str(sounds.root_dir),
            files=[sounds.name(row) for row in rows],
            samples=[int(size) for size in sounds.sizes],
            labels=[dataset.get_label(row) for row in rows],
        )


def check_generation_options(args: Any) -> None:
    """Raise ``UserError`` for options of ``fairseq-generate`` that CTC decoding would ignore or crash on."""
    for name, only in UNSUPPORTED_GENERATION.items():
        if getattr(args, name, only) != only:
            raise UserError(
                f"--{name.replace('_', '-')}: not supported for CTC models, which have no autoregressive decoder; "
                "remove it"
            )
    if str(getattr(args, "print_alignment", None)) == "soft":
        raise UserError("--print-alignment soft: CTC has no attention; use --print-alignment hard")


def score_words(args: Any, symbols: Sequence[str]) -> None:
    """Have ``fairseq-generate`` print and score words, whether or not ``--post-process`` says so.

    Where the symbols are whole units, such as phones, the scorer calls their error rate UER.

    Args:
        args: fairseq's ``GenerationConfig`` as a part of the whole config; nothing is done for one by itself.
        symbols: those of the target dictionary.

    Raises:
        UserError: ``--post-process`` is for other symbols, or would have letters counted as words.
    """
    cfg = args._get_parent() if OmegaConf.is_config(args) else None
    if cfg is None:
        return
    kind, chosen, scoring = symbol_kind(symbols), cfg.common_eval.post_process, getattr(cfg.scoring, "_name", None)
    is_rate = scoring in ("wer", "dinosr_wer")
    if chosen not in (None, "none", kind):
        raise UserError(f"--post-process {chosen}: the dictionary has {SYMBOL_KINDS[kind]}; omit it")
    if scoring == "bleu":
        logger.warning("--scoring bleu, the default, is for translations; give --scoring dinosr_wer for error rates")
    if kind == "none":
        if scoring == "dinosr_wer":
            cfg.scoring.scored_unit = "symbol"
        elif is_rate:
            logger.warning(f"the error rate below counts symbols of the dictionary, which has {SYMBOL_KINDS[kind]}")
    elif chosen is None:
        logger.info(f"--post-process {kind}: chosen, because the dictionary has {SYMBOL_KINDS[kind]}")
        cfg.common_eval.post_process = kind
    elif chosen == "none" and is_rate:
        raise UserError(f"--post-process none: --scoring {scoring} would count symbols as words; omit one of them")


def search_options(cfg: DecodingConfig, args: Any) -> SearchOptions:
    """The settings of the task and the options of ``fairseq-generate`` (its ``GenerationConfig``)."""
    of_task = {
        name: getattr(cfg, name)
        for name in ("lm", "lexicon", "word_score", "sil_weight", "beam_threshold", "beam_size_token")
    }
    return SearchOptions(beam=args.beam, nbest=args.nbest, lm_weight=args.lm_weight, lm_path=args.lm_path, **of_task)
