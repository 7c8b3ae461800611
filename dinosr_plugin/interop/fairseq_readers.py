"""Frame readers of fairseq's own speech models."""

from fairseq.models.hubert import HubertModel
from fairseq.models.wav2vec import Wav2Vec2Model
from torch import Tensor

from ..checkpoints.readers import FrameReader
from ..modules.conv_spec import parse_conv_layers
from ..modules.frame_grid import FrameGrid


class Wav2Vec2Reader(FrameReader):
    """wav2vec 2.0 and data2vec, which share their front end and encoder."""

    model: Wav2Vec2Model

    def find_grid(self) -> FrameGrid:
        return FrameGrid.of_convolutions(parse_conv_layers(self.model.cfg.conv_feature_layers))

    def ignores_padding(self) -> bool:
        """Of fairseq's models only large wav2vec 2.0 (``extractor_mode=layer_norm``) ignores padding.

        The base models normalize the first convolution over time, padding included; data2vec's stacked positional
        convolutions carry padding inwards, and Conformers normalize over it.
        """
        cfg = self.model.cfg
        plain = type(self.model) is Wav2Vec2Model and cfg.layer_type == "transformer" and cfg.pos_conv_depth == 1
        return plain and cfg.extractor_mode == "layer_norm" and cfg.crop_seq_to_multiple == 1

    def run(self, source: Tensor, padding_mask: Tensor | None, stop: int | None) -> Tensor:
        return self.model.extract_features(source, padding_mask, mask=False, layer=stop)["x"]


class HubertReader(FrameReader):
    """HuBERT, which keeps no config and counts layers from 1."""

    model: HubertModel

    def find_grid(self) -> FrameGrid:
        convolutions = [block[0] for block in self.model.feature_extractor.conv_layers]
        return FrameGrid.of_convolutions((conv.out_channels, *conv.kernel_size, *conv.stride) for conv in convolutions)

    def ignores_padding(self) -> bool:
        """No: a frame that is half padding counts as speech."""
        return False

    def run(self, source: Tensor, padding_mask: Tensor | None, stop: int | None) -> Tensor:
        layer = None if stop is None else stop + 1
        return self.model.extract_features(source, padding_mask, mask=False, output_layer=layer)[0]
