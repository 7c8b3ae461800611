"""Models and formats of other projects: fairseq's own, CPC_audio, SpidR, Hugging Face, ONNX, s3prl."""

from .. import compat  # noqa: F401  (before fairseq is imported)
