"""What the forward pass of an objective returns."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Output:
    """Losses of one batch, and what to log of it.

    Attributes:
        losses: the parts of the loss by name, each a scalar summed over the units that the objective learns from.
            The criterion weights and adds them; fairseq divides their sum by the ``sample_size`` of the whole update.
        sample_size: number of these units in the batch, or the sum of their weights.
        unit: what such a unit is called in the log, in the plural, such as ``masked_frames`` or ``anchors``.
        scalars: further figures to log by name, each a mean over the units: a float or a detached scalar tensor.
            Over micro-batches and ranks they are averaged with ``sample_size`` as the weight.
        codebook_sums: sums over frames for each codebook or label set, as ``modules.codebook_figures`` makes them;
            empty for an objective that predicts no codes.
    """

    losses: dict[str, Tensor]
    sample_size: float
    unit: str = "frames"
    scalars: dict[str, Tensor | float] = field(default_factory=dict)
    codebook_sums: dict[str, Tensor] = field(default_factory=dict)
