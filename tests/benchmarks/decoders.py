"""Speed and error rate of each decoder, on the same emissions, in this process and in a pool.

    fairseq-generate data --task dinosr_finetuning --user-dir $(dinosr path) --path CHECKPOINT --gen-subset dev \\
        --emissions dev.npz --cpu
    dinosr bench decode dev.npz --lexicon data/train.wrd --lm words.arpa --letters letters.arpa [--lm-weight 2]
                        [--beam 50]
"""

import argparse
import time
from pathlib import Path

import torch
from records import run_script

from dinosr_plugin.decoding import SearchOptions, build_decoder
from dinosr_plugin.decoding.emissions import EmissionReader
from dinosr_plugin.decoding.pool import DecoderPool, default_processes
from dinosr_plugin.decoding.results import error_rates
from dinosr_plugin.decoding.tune import symbols_of, text_of
from dinosr_plugin.evaluation.table import format_table

COLUMNS = [
    ("name", "decoder", ""),
    ("wer", "WER", ".2f"),
    ("cer", "CER", ".2f"),
    ("alone", "real-time factor", ".4f"),
    ("pool", "in the pool", ".4f"),
    ("gain", "times faster", ".2f"),
]


def timed(decoder, tables: list, processes: int) -> tuple:
    """The hypotheses of all utterances, and the seconds that decoding took."""
    with DecoderPool(decoder, processes) as pool:
        start = time.perf_counter()
        begun = [pool.submit(table[None], torch.tensor([len(table)])) for table in tables]
        hypotheses = [pending.wait()[0][0] for pending in begun]
        return hypotheses, time.perf_counter() - start


def measure(name: str, kind: str, options: SearchOptions, emissions: EmissionReader) -> dict:
    meta, tables = emissions.meta, list(emissions)
    decoder = build_decoder(kind, meta.dictionary(), meta.blank, options)
    hypotheses, alone = timed(decoder, tables, 0)
    again, pool = timed(decoder, tables, default_processes())
    texts = [text_of(symbols_of(one, emissions), meta.symbols) for one in hypotheses]
    assert texts == [text_of(symbols_of(one, emissions), meta.symbols) for one in again]
    rates = error_rates([(text_of(label.split(), meta.symbols), text) for label, text in zip(meta.labels, texts)])
    return {"name": name, **rates, "alone": alone / meta.seconds, "pool": pool / meta.seconds, "gain": alone / pool}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dinosr bench decode", description=__doc__.splitlines()[0])
    parser.add_argument("emissions", type=Path, metavar="EMISSIONS", help="file of `fairseq-generate ... --emissions`")
    parser.add_argument("--lexicon", required=True, metavar="FILE", help="lexicon or train.wrd")
    parser.add_argument("--lm", required=True, metavar="FILE", help="n-gram model of words")
    parser.add_argument("--letters", required=True, metavar="FILE", help="n-gram model of letters")
    parser.add_argument("--lm-weight", type=float, default=2.0, help="weight of both models (default: %(default)s)")
    parser.add_argument("--beam", type=int, default=50, help="beam size (default: %(default)s)")
    given = parser.parse_args(arguments)
    emissions = EmissionReader(given.emissions)
    torch.set_num_threads(1)
    runs = {
        "best path": ("best_path", SearchOptions()),
        "beam": ("beam", SearchOptions(beam=given.beam)),
        "beam, n-gram of letters": (
            "beam",
            SearchOptions(beam=given.beam, lm=given.letters, lm_weight=given.lm_weight),
        ),
        "lexicon": ("lexicon", SearchOptions(beam=given.beam, lexicon=given.lexicon)),
        "lexicon, n-gram of words": (
            "lexicon",
            SearchOptions(beam=given.beam, lexicon=given.lexicon, lm=given.lm, lm_weight=given.lm_weight),
        ),
    }
    rows = [measure(name, kind, options, emissions) for name, (kind, options) in runs.items()]
    print(f"{emissions.meta.seconds / 60:.1f} min of speech, beam {given.beam}, {default_processes()} processes")
    print(format_table(rows, COLUMNS))


if __name__ == "__main__":
    run_script(main)
