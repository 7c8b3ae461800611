"""What of the fine-tuning task ``fairseq-generate`` needs: its fields, and the generator that they describe."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Optional

from fairseq.data import FairseqDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig

from .. import compat
from ..decoding import DECODERS, CTCGenerator, SearchOptions, build_decoder
from ..decoding.emissions import EmissionReader, EmissionWriter, Meta, fingerprint
from ..decoding.pool import default_processes
from ..decoding.search import check_decoder_options
from ..errors import UserError

UNSUPPORTED_GENERATION = {
    "score_reference": False,
    "print_step": False,
    "retain_iter_history": False,
    "sampling": False,
    "prefix_size": 0,
    "constraints": None,
}
"""Options of fairseq-generate that mean nothing for CTC, with the value that they must keep."""


@dataclass
class DecodingConfig(AudioFinetuningConfig):
    decoder: ChoiceEnum(list(DECODERS)) = field(
        default="best_path",
        metadata={
            "help": "how fairseq-generate turns frames into text; best_path: likeliest symbol of each frame, no language model; "
            "beam: likeliest text, a language model of symbols if lm or --lm-path is given; lexicon: words of the lexicon, a language model of words "
            "if lm is given. The searches keep --beam hypotheses (fairseq's default of 5 is little: 50 to 500) and need flashlight-text"
        },
    )
    lm: Optional[str] = field(
        default=None,
        metadata={
            "help": "n-gram model that KenLM reads (.arpa, .bin), whose log10 probabilities count --lm-weight times (0.5 to 2 is usual)"
        },
    )
    lexicon: Optional[str] = field(
        default=None,
        metadata={
            "help": "for decoder=lexicon: lines 'word l e t t e r s |', or transcripts (train.wrd), whose words are spelt letter by letter"
        },
    )
    word_score: float = field(
        default=0.0,
        metadata={
            "help": "for decoder=lexicon: added for each word; above 0 makes up for words that a language model deletes"
        },
    )
    sil_weight: float = field(
        default=0.0,
        metadata={"help": "silence score, for decoder=beam and lexicon: added for each frame of the word boundary |"},
    )
    beam_threshold: float = field(
        default=50.0,
        metadata={
            "help": "for decoder=beam and lexicon: drop hypotheses this far (natural logarithm) behind the best; less is faster"
        },
    )
    beam_size_token: int = field(
        default=100,
        metadata={
            "help": "for decoder=beam and lexicon: only the likeliest so many symbols of each frame are tried; less is faster"
        },
    )
    emissions: Optional[str] = field(
        default=None,
        metadata={
            "help": "file (.npz) that fairseq-generate writes what the network gives to, or, where there is such a file, takes it from: decode many "
            "times without the network. `dinosr tune-lm` reads it too"
        },
    )
    decoder_processes: Optional[int] = field(
        default=None,
        metadata={
            "help": "for decoder=beam and lexicon: processes that search while the network works; 0: search in between "
            "(default: one a CPU, 16 at most); changes the time, not the result"
        },
    )


class Decoding:
    """A part of a fairseq task for CTC models, which has ``cfg``, ``target_dictionary``, ``blank_symbol`` and ``datasets``."""

    batches: EpochBatchIterator | None = None  # those made last

    def build_generator(
        self, models: Sequence, args: Any, seq_gen_cls=None, extra_gen_cls_kwargs=None, **kwargs
    ) -> CTCGenerator:
        """What ``fairseq-generate`` decodes with; ``task.decoder`` chooses the decoder.

        Args:
            models: those that will be run.
            args: fairseq's ``GenerationConfig``.
            extra_gen_cls_kwargs: ``lm_model`` is fairseq's language model, if any.
            seq_gen_cls: part of fairseq's calling convention.
        """
        check_generation_options(args)
        check_decoder_options(self.cfg)
        blank = self.target_dictionary.index(self.blank_symbol)
        lm = (extra_gen_cls_kwargs or {}).get("lm_model")  # from --lm-path
        decoder = build_decoder(
            str(self.cfg.decoder), self.target_dictionary, blank, search_options(self.cfg, args), lm
        )
        processes = default_processes() if self.cfg.decoder_processes is None else self.cfg.decoder_processes
        generator = CTCGenerator(decoder, self.target_dictionary, blank, processes, self.emissions_file(models, blank))
        if self.batches is not None:
            compat.transform_batches(self.batches, partial(generator.ahead, models))
        return generator

    def emissions_file(self, models: Sequence, blank: int) -> EmissionReader | EmissionWriter | None:
        """``task.emissions``: opened for reading where it is there, after a check that it is of these models and data; else begun."""
        if self.cfg.emissions is None:
            return None
        (dataset,) = self.datasets.values()
        if self.cfg.multi_corpus_keys is not None:
            raise UserError("--emissions: not for several corpora at once; decode one after the other")
        meta = self.describe(dataset, models, blank)
        if Path(self.cfg.emissions).exists():
            reader = EmissionReader(self.cfg.emissions)
            reader.require_same(meta)
            return reader
        if self.batches is not None and (
            self.batches.num_shards > 1 or sum(map(len, self.batches.frozen_batches)) < len(dataset)
        ):
            raise UserError(
                f"--emissions {self.cfg.emissions}: is of whole manifests, and some utterances would be left out; "
                "leave out --max-sample-size, --distributed-world-size or whatever does that, or --emissions"
            )
        return EmissionWriter(self.cfg.emissions, meta)

    def describe(self, dataset: FairseqDataset, models: Sequence, blank: int) -> Meta:
        sounds, rows = dataset.dataset, range(len(dataset))
        return Meta(
            model=fingerprint(models),
            symbols=list(self.target_dictionary.symbols),  # a copy: fairseq-generate adds the words it meets
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
                f"--{name.replace('_', '-')}: not for CTC models, which have no autoregressive decoder; leave it out"
            )
    if str(getattr(args, "print_alignment", None)) == "soft":
        raise UserError("--print-alignment soft: CTC has no attention; use --print-alignment hard")


def search_options(cfg: DecodingConfig, args: Any) -> SearchOptions:
    """What the user set in the task and as options of ``fairseq-generate`` (its ``GenerationConfig``)."""
    of_task = {
        name: getattr(cfg, name)
        for name in ("lm", "lexicon", "word_score", "sil_weight", "beam_threshold", "beam_size_token")
    }
    return SearchOptions(beam=args.beam, nbest=args.nbest, lm_weight=args.lm_weight, lm_path=args.lm_path, **of_task)
