"""The readers of this plug-in's models."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..models.cpc import CPC
from ..models.dinosr import DinoSR
from ..models.predictive import Predictive
from ..models.spin import Spin
from ..models.trunk import Trunk
from ..modules.frame_grid import FrameGrid
from .readers import CodeSet, FrameReader, Output

TEACHER, HEAD = "teacher", "head"  # names of DinoSR's sets of codes
CODEBOOK, PROJECTION, LOGITS = "codebook", "projection", "logits"  # names of Spin's set of codes and of its outputs


class TrunkReader(FrameReader):
    """Models on the common trunk: the unmasked student."""

    model: Trunk
    batch_first = True

    def find_grid(self) -> FrameGrid:
        return self.model.grid

    def ignores_padding(self) -> bool:
        """Not if the first convolution is normalized over time, padding included (``extractor_mode=default``)."""
        return self.model.cfg.front_end == "fbank" or self.model.cfg.extractor_mode == "layer_norm"

    def run(self, source: Tensor, padding_mask: Tensor | None, stop: int | None) -> Tensor:
        return self.model.extract_features(source, padding_mask, mask=False, layer=stop)["x"]


class DinoSRReader(TrunkReader):
    """DinoSR, its teacher, and codes: ``teacher``: the codebooks' assignments; ``head``: the student's predictions."""

    model: DinoSR

    def has_teacher(self) -> bool:
        return self.model.teacher is not None  # it is removed in fine-tuning

    def find_code_sets(self) -> Mapping[str, CodeSet]:
        if not self.has_teacher():
            return {}
        K = self.model.n_codebooks
        sizes = (K, int(self.model.cfg.codebook_size), tuple(range(self.n_layers - K, self.n_layers)))
        return {
            TEACHER: CodeSet(*sizes, "codebook", "codebooks, as the teacher assigns them", "teacher"),
            HEAD: CodeSet(*sizes, "head", "student's heads, which predict them"),
        }

    def find_layers(self) -> nn.Module:
        encoder = self.model.teacher.model if self.weights == "teacher" else self.model.encoder
        return encoder.get_submodule("layers")

    def run(self, source: Tensor, padding_mask: Tensor | None, stop: int | None) -> Tensor:
        return self.run_with(source, padding_mask, stop, ())[0]

    def run_with(
        self, source: Tensor, padding_mask: Tensor | None, stop: int | None, names: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Front end once for student and teacher; the teacher runs only if it is read or its codes are asked for."""
        model, codes = self.model, {}
        padding = model.frame_padding(source, padding_mask)  # (B, F)
        inputs = model.encoder_inputs(source, padding)  # (B, F, D)
        mask = padding if bool(padding.any()) else None
        if self.weights == "teacher":
            x, _ = model.teacher.model(inputs, mask, stop)
        if self.weights != "teacher" or HEAD in names:
            student, results = model.encoder(inputs, mask, stop)
            x = x if self.weights == "teacher" else student
            if HEAD in names:
                codes[HEAD] = model.logits(model.head_inputs(student, results)).argmax(-1)  # (K, B, F)
        if TEACHER in names:
            targets = model.targets(inputs, mask)  # (K, B, F, D)
            codes[TEACHER] = model.codebooks.assign(targets.flatten(1, 2)).view(targets.shape[:3])  # (K, B, F)
        return x, codes


class SpinReader(TrunkReader):
    """Spin, with its codebook and two outputs.

    ``codebook``: the code with the highest score; ``projection``: the frames at norm 1, in which they are compared with
    the codes; ``logits``: their cosines with every code, the scores before they are divided by the temperature. Logits
    are a linear map of the projection, so they are not compared.
    """

    model: Spin

    def has_codebook(self) -> bool:
        return self.model.codebook is not None  # it is removed in fine-tuning

    def find_code_sets(self) -> Mapping[str, CodeSet]:
        if not self.has_codebook():
            return {}
        size = self.model.codebook.out_features
        return {CODEBOOK: CodeSet(1, size, (self.n_layers - 1,), "codebook", "the model's codebook")}

    def find_outputs(self) -> Mapping[str, Output]:
        if not self.has_codebook():
            return {}
        codebook = self.model.codebook
        return {PROJECTION: Output(codebook.in_features), LOGITS: Output(codebook.out_features, compared=False)}

    def run_with(
        self, source: Tensor, padding_mask: Tensor | None, stop: int | None, names: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.run(source, padding_mask, stop)  # (B, F, D)
        results = {PROJECTION: self.model.project_frames(x)} if PROJECTION in names else {}  # (B, F, P)
        if LOGITS in names or CODEBOOK in names:
            scores = self.model.scores(x)  # (B, F, V)
            results |= {LOGITS: scores, CODEBOOK: scores.argmax(-1).unsqueeze(0)}
        return x, results


class CPCReader(FrameReader):
    """The layers of CPC's context network, with or without clusters: features that do not depend on later frames."""

    model: CPC

    @property
    def layer_kind(self) -> str:
        return "convolutional layers" if self.model.cfg.context == "cnn" else "recurrent layers"

    def find_layers(self) -> nn.ModuleList:
        return self.model.context.layers

    def find_grid(self) -> FrameGrid:
        return self.model.grid

    def find_width(self) -> int:
        return self.model.cfg.context_dim

    def ignores_padding(self) -> bool:
        return self.model.cfg.encoder_norm != "instance"

    def run(self, source: Tensor, padding_mask: Tensor | None, stop: int | None) -> Tensor:
        return self.model.extract_features(source, padding_mask, layer=stop)["x"]


class PredictiveReader(FrameReader):
    """APC and MPC: GRU or Transformer layers over single log-Mel frames; nothing is masked.

    With direction=both a layer's output is that of the forward model, then that of the backward model.
    """

    model: Predictive
    batch_first = True

    @property
    def layer_kind(self) -> str:
        return "recurrent layers" if self.model.cfg.encoder == "rnn" else "Transformer layers"

    def find_grid(self) -> FrameGrid:
        return self.model.grid

    def find_width(self) -> int:
        return self.model.width

    def ignores_padding(self) -> bool:
        return True

    def run(self, source: Tensor, padding_mask: Tensor | None, stop: int | None) -> Tensor:
        return self.model.extract_features(source, padding_mask, layer=stop)["x"]
