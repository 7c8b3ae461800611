"""What the config of a fairseq checkpoint says about its model. The model is not built."""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, NamedTuple

from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY

from ..checkpoints.contents import name_of
from ..modules import frame_grid
from ..modules.conv_spec import parse_conv_layers
from ..modules.frame_grid import FrameGrid
from .description import known, whole
from .frames import grid_of
from .weights import Weights, layers_in

CPC, PREDICTIVE = ("cpc", "cpc_deepcluster"), ("apc", "mpc")
SPEAKER = ("dino_speaker", "ssrl_speaker")


class Config(NamedTuple):
    """``model``, ``task``: their names in fairseq's registries, ``fields``, ``task_fields``: their settings;
    ``inside``: of the pre-trained model in a fine-tuned one."""

    model: str
    task: str
    fields: Mapping[str, Any]
    task_fields: Mapping[str, Any]
    inside: "Config | None" = None

    @classmethod
    def of(cls, cfg: Any) -> "Config":
        """From fairseq's config, or from the options of its older programs."""
        if isinstance(cfg, Namespace):
            cfg = {"model": cfg, "task": {**vars(cfg), "_name": vars(cfg).get("task")}}
        model, task = (fields_of(cfg.get(part)) for part in ("model", "task"))
        inside = model.get("w2v_args")
        name = str(name_of(model))
        return cls(
            str(ARCH_MODEL_NAME_REGISTRY.get(name, name)),
            str(name_of(task)),
            model,
            task,
            cls.of(inside) if isinstance(inside, dict | Namespace) else None,
        )

    def get(self, name: str) -> Any:
        """A setting of the model, or its default."""
        if name in self.fields:
            return self.fields[name]
        fields = getattr(MODEL_DATACLASS_REGISTRY.get(self.model), "__dataclass_fields__", {})
        default = fields[name].default if name in fields else None
        return None if default is MISSING else default


def fields_of(part: Any) -> dict[str, Any]:
    part = vars(part) if isinstance(part, Namespace) else part
    return part if isinstance(part, dict) else {}


def sizes_of(config: Config, weights: Weights) -> dict[str, int]:
    """Layers, width and the like of a model of frames, embeddings or symbols."""
    get = config.get
    if config.model in CPC:
        return known(layers=get("context_layers"), width=get("context_dim"), channels=get("encoder_channels"))
    if config.model in PREDICTIVE:
        of_transformer = ("heads", "feed_forward") if get("encoder") == "transformer" else ()
        both = any(".back." in name for name in weights)  # a model each way, whose outputs are joined
        width = (get("width") or 0) * (2 if both else 1) if whole(get("width")) else None
        return known(layers=get("layers"), width=width, **{name: get(name) for name in of_transformer})
    if config.model in SPEAKER:
        return known(embedding=get("embedding_dim"))
    if config.task == "language_modeling":
        return of_symbols(config, weights)
    sizes = known(
        layers=get("encoder_layers"),
        width=get("encoder_embed_dim"),
        heads=get("encoder_attention_heads"),
        feed_forward=get("encoder_ffn_embed_dim"),
    )
    return sizes if sizes else known(layers=layers_in(weights))


def of_symbols(config: Config, weights: Weights) -> dict[str, int]:
    """Of a language model."""
    tables = [weight.shape for name, weight in weights.items() if name.endswith("embed_tokens.weight")]
    return known(
        layers=layers_in(weights),
        width=config.get("decoder_embed_dim"),
        heads=config.get("decoder_attention_heads"),
        feed_forward=config.get("decoder_ffn_embed_dim"),
        outputs=tables[0][0] if tables and tables[0] else None,
    )


def grid_of_model(config: Config) -> FrameGrid | None:
    """Rate and place of the frames; None for a model without frames, or with an unknown front end."""
    if config.model in CPC:
        return frame_grid.MEL if config.get("front_end") == "log_mel" else frame_grid.CPC
    if config.model in PREDICTIVE:
        return frame_grid.MEL
    if config.model in SPEAKER:
        return None
    if config.get("front_end") == "fbank":
        return frame_grid.TRUNK
    try:
        layers = parse_conv_layers(config.get("conv_feature_layers"))
    except ValueError:
        return None
    return grid_of([kernel for _, kernel, _ in layers], [stride for _, _, stride in layers])
