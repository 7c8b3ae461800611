"""fairseq's trainer: inputs in half precision, and half precision on a CPU."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .wrapping import wrap_once


def keep_waveforms_float32():
    """fairseq rounds the waveform to half precision before the model receives it.

    With bf16's 8 bits of precision the quiet half of a spectrum is lost. A model with a module whose ``takes_float32``
    is true receives the waveform as it was loaded; other models and other inputs are converted as before.
    """
    from fairseq.trainer import Trainer

    def make(previous):
        def convert(self, sample):
            source = sample.get("net_input", {}).get("source") if isinstance(sample, dict) else None
            converted = previous(self, sample)
            if converted is sample:  # float32 training
                return sample
            if source is not None and any(getattr(m, "takes_float32", False) for m in self.get_model().modules()):
                converted["net_input"]["source"] = source
            return converted

        return convert

    wrap_once(Trainer, "_fp_convert_sample", make)


def half_precision_on_cpu():
    """fairseq joins the float32 copies of half-precision parameters in one tensor on the current GPU.

    Without a GPU they are kept as separate tensors.
    """
    from fairseq.optim.fp16_optimizer import FP16Optimizer

    def make(previous):
        def build(cfg, params, **kwargs):
            if not params[0].is_cuda:
                cfg = copy.deepcopy(cfg)
                cfg.common.fp16_no_flatten_grads = True
            return previous(cfg, params, **kwargs)

        return build

    wrap_once(FP16Optimizer, "build_optimizer", make)


def overflow_on_cpu():
    """fairseq's update calls ``tensor.cuda()`` when fp16 overflows, also in a training on a CPU."""
    from fairseq.trainer import Trainer

    def make(previous):
        def train_step(self, samples, raise_oom: bool = False):
            if self.cuda:
                return previous(self, samples, raise_oom)
            with ignore_cuda_calls():
                return previous(self, samples, raise_oom)

        return train_step

    wrap_once(Trainer, "train_step", make)


@contextmanager
def ignore_cuda_calls() -> Iterator[None]:
    """Within this context ``tensor.cuda()`` returns the tensor itself."""
    previous = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor
    try:
        yield
    finally:
        torch.Tensor.cuda = previous
