"""What keeps a training alive: resuming, stopping, saving, whole updates; and what makes it cheaper: memory and Adam.

A run resumes only with what its checkpoint was made with (``origin``), and has its folder for itself (``save_dir``).

``install()`` adds all of it to fairseq's trainer and training loop; importing ``dinosr_plugin.tasks`` calls it. It
holds for every task of the plug-in. Sharded checkpoints (``checkpoint_suffix``) and remote stores are left to fairseq.
"""

from . import (
    adam_l2,  # noqa: F401  # registers it
    composition,
    cosine_phases,  # noqa: F401
    dino_sgd,
    divergence,
    ending,
    fused_adam,
    origin,
    resuming,
    run_log,
    save_dir,
    saving,
    settings,
    state,
    stopping,
    updates,
    validating,
)


def install():
    """Wrap fairseq's functions once, the later wrappers around the earlier ones. Calling it again changes nothing."""
    composition.help_composition()
    settings.check_settings_first()
    settings.require_gpus()
    run_log.show_bar_on_terminals()
    divergence.stop_diverged_runs()
    fused_adam.use_fused_adam()
    dino_sgd.keep_parameters_separate()
    ending.undo_at_end()
    resuming.remember_config()
    save_dir.claim_at_once()
    saving.copy_checkpoints_atomically()
    saving.write_checkpoints_once()
    saving.survive_failed_saves()
    resuming.resume_from_intact_checkpoint()
    origin.save_record()
    state.restore_task_state()
    stopping.leave_finished_runs()
    stopping.stop_after_saving()
    stopping.keep_workers()
    stopping.wait_for_spawned_ranks()
    state.restore_early_stopping()  # around resume_from_intact_checkpoint
    updates.call_update_hooks()
    updates.call_epoch_hook()
    validating.log_subsets_side_by_side()
    validating.validate_before_the_first_update()
    state.restore_half_precision()
