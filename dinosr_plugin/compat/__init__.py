"""Every workaround for a fairseq, torch, NumPy or Python version: one function each, with its reason.

Importing this package applies all of them. Each package that imports fairseq therefore imports this one first.
"""

from ..runs import fused_adam as optimizing
from ..runs import saving
from ..runs.memory import keep_freed_memory  # noqa: F401  (for the tasks)
from . import data, language_models, messages, training, versions
from .data import audio_dataset, loaded_checkpoints, through  # noqa: F401  (for the tasks)
from .versions import let_go_of_processes  # noqa: F401  (for decoding)


def apply():
    """Run every workaround once; safe to call again."""
    versions.numpy_aliases()
    versions.import_fairseq_quietly()
    versions.allow_fairseq_checkpoints()
    versions.hubert_ctc_is_built()
    messages.one_line_errors()
    messages.one_line_errors_in_hydra()
    messages.one_line_errors_of_workers()
    messages.one_line_for_save_dir()
    messages.log_file_opened_once()
    messages.no_warning_about_weight_norm()
    data.one_corpus_a_batch()
    optimizing.fused_adam()
    language_models.language_models_load()
    saving.whole_copies_of_checkpoints()
    saving.whole_checkpoints_written()
    saving.training_goes_on_without_room()
    saving.resume_from_a_whole_checkpoint()
    saving.broadcast_of_checkpoints()
    saving.task_state_comes_back()
    training.stop_after_saving()
    training.early_stopping_goes_on()
    training.whole_updates()
    training.waveforms_stay_float32()
    training.half_precision_on_cpu()
    training.exact_resume_of_half_precision()


apply()
