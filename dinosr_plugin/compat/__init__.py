"""Workarounds for a fairseq, torch, NumPy or Python version: one function each, with its reason.

Importing this package applies all of them. Each package that imports fairseq therefore imports this one first. No other
package contains workarounds. What the plug-in adds to fairseq's training loop (resuming, stopping, saving) is not a
workaround: see ``dinosr_plugin.runs``.
"""

from . import checkpoints, data, evaluation, language_models, messages, training, versions
from .data import (  # noqa: F401  (used by the tasks)
    audio_dataset,
    label_files_as_text,
    loaded_checkpoints,
    transform_batches,
)
from .evaluation import parse_instead_of_evaluating  # noqa: F401  (used by interop)
from .versions import unblock_pool  # noqa: F401  (used by decoding)


def apply():
    """Run every workaround once. Calling it again changes nothing."""
    versions.restore_numpy_aliases()
    versions.import_fairseq_quietly()
    versions.allow_fairseq_checkpoints()
    versions.broadcast_checkpoints()
    versions.build_hubert_ctc()
    evaluation.parse_instead_of_evaluating()
    checkpoints.check_loaded_checkpoints()
    checkpoints.check_built_models()
    checkpoints.open_only_files_of_embeddings()
    checkpoints.split_only_lists_of_paths()
    messages.one_line_errors()
    messages.one_line_errors_in_hydra()
    messages.one_line_worker_errors()
    messages.one_line_killed_workers()
    messages.one_line_log_errors()
    messages.one_line_save_dir_error()
    messages.printable_log_records()
    messages.printable_generation()
    messages.open_log_file_once()
    messages.silence_weight_norm_warning()
    data.dictionaries_as_text()
    data.one_corpus_per_batch()
    language_models.load_language_models()
    training.keep_waveforms_float32()
    training.half_precision_on_cpu()
    training.overflow_on_cpu()


apply()
