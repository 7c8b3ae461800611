"""Pre-training on unlabelled speech: fairseq's audio task with checks that speak before an hour is lost."""

from dataclasses import dataclass
from pathlib import Path

from fairseq.tasks import register_task
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask


@dataclass
class DinoSRPretrainingConfig(AudioPretrainingConfig):
    pass


@register_task("dinosr_pretraining", dataclass=DinoSRPretrainingConfig)
class DinoSRPretrainingTask(AudioPretrainingTask):
    """fairseq's ``audio_pretraining`` on manifests that were validated."""

    def load_dataset(self, split: str, task_cfg=None, **kwargs):
        """Load ``<data>/<split>.tsv``. Raises UserError, one line, for a manifest that cannot be trained on."""
        from ..data.check import validate_manifest

        validate_manifest(Path(self.cfg.data) / f"{split}.tsv", None, self.cfg.min_sample_size)
        super().load_dataset(split, task_cfg, **kwargs)
