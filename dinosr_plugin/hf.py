"""For transformers: what it lacks for this plug-in's models. Importing this module is enough; no remote code is used.

import dinosr_plugin.hf
from transformers import AutoModel

model = AutoModel.from_pretrained(folder)  # a log-Mel model that `dinosr export hf` wrote

It registers the config and the models of the trunk with front_end=fbank, for which transformers has no class. For a
batch in which utterances of ``Data2VecAudioModel`` are padded, see ``ignore_padding``. It requires the extra ``hf``.
"""

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCTC, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from . import compat  # noqa: F401  # before fairseq
from .models.encoder import TrunkConfig
from .models.trunk import Trunk
from .modules.log_mel import LogMel


class LogMelConfig(PretrainedConfig):
    """Sizes under transformers' names, and the settings that it does not have under those of ``TrunkConfig``."""

    model_type = "dinosr_log_mel"

    def __init__(
        self,
        n_mels: int = 80,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        layer_norm_first: bool = False,
        conv_pos: int = 128,
        conv_pos_groups: int = 16,
        pos_conv_depth: int = 1,
        vocab_size: int = 32,
        **others,
    ):
        self.n_mels, self.hidden_size, self.num_hidden_layers = n_mels, hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.hidden_act, self.layer_norm_first = hidden_act, layer_norm_first
        self.conv_pos, self.conv_pos_groups, self.pos_conv_depth = conv_pos, conv_pos_groups, pos_conv_depth
        self.vocab_size = vocab_size
        super().__init__(**others)

    def trunk(self) -> TrunkConfig:
        return TrunkConfig(
            front_end="fbank",
            n_mels=self.n_mels,
            encoder_embed_dim=self.hidden_size,
            encoder_layers=self.num_hidden_layers,
            encoder_attention_heads=self.num_attention_heads,
            encoder_ffn_embed_dim=self.intermediate_size,
            activation_fn=self.hidden_act,
            layer_norm_first=self.layer_norm_first,
            conv_pos=self.conv_pos,
            conv_pos_groups=self.conv_pos_groups,
            pos_conv_depth=self.pos_conv_depth,
        )


class LogMelPreTrainedModel(PreTrainedModel):
    config_class = LogMelConfig
    base_model_prefix = "model"
    main_input_name = "input_values"

    def _init_weights(self, module: nn.Module) -> None:
        """The parts of ``LogMel``, which are computed and not kept in files, and which transformers removes."""
        if isinstance(module, LogMel):
            computed = LogMel(self.config.n_mels, module.stacked)
            module.window = computed.window.to(module.window.device)
            module.filters = computed.filters.to(module.filters.device)


class LogMelModel(LogMelPreTrainedModel):
    """The trunk with log-Mel frames, unmasked."""

    def __init__(self, config: LogMelConfig):
        super().__init__(config)
        with torch.device("cpu"):  # fairseq's initial values cannot be drawn on the device `meta`
            self.trunk = Trunk(config.trunk())
        for module in self.trunk.encoder.pos_conv.modules():
            if hasattr(module, "weight_g"):  # transformers renames it in every file that it reads
                nn.utils.parametrizations.weight_norm(nn.utils.remove_weight_norm(module), dim=2)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **others,
    ) -> BaseModelOutput:
        """input_values (B, T) float at 16 kHz, attention_mask (B, T), 1 for speech -> ``last_hidden_state`` (B, F, D).

        ``hidden_states``: the input of the Transformer layers and the output of each, as in transformers' models.
        """
        padding_mask = None if attention_mask is None else attention_mask == 0
        inputs: list[Tensor] = []
        hook = self.trunk.encoder.layers[0].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        try:
            features = self.trunk.extract_features(input_values, padding_mask)
        finally:
            hook.remove()
        layers = [*inputs, *(output.transpose(0, 1) for output, _, _ in features["layer_results"])]
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutput(last_hidden_state=features["x"], hidden_states=tuple(layers) if wanted else None)


class LogMelForCTC(LogMelPreTrainedModel):
    """``LogMelModel`` with a linear layer: logits of the symbols of ``vocab.json``, of which ``<pad>`` is the blank."""

    def __init__(self, config: LogMelConfig):
        super().__init__(config)
        self.model = LogMelModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None, **others) -> CausalLMOutput:
        """As ``LogMelModel.forward`` -> ``logits`` (B, F, V)."""
        outputs = self.model(input_values, attention_mask, **others)
        return CausalLMOutput(logits=self.lm_head(outputs.last_hidden_state), hidden_states=outputs.hidden_states)


AutoConfig.register(LogMelConfig.model_type, LogMelConfig)
AutoModel.register(LogMelConfig, LogMelModel)
AutoModelForCTC.register(LogMelConfig, LogMelForCTC)


def ignore_padding(model: PreTrainedModel) -> None:
    """Make the features of a ``Data2VecAudioModel`` independent of padding, as those of this plug-in are.

    transformers sets padded frames to zero before the first of the stacked positional convolutions only, so that each
    further one carries padding inwards: of five with kernel 19, the last 36 frames of an utterance differ, and through
    self-attention all others too. This sets padded frames to zero after each convolution.
    """
    encoder = model.base_model.encoder
    kept: list[Tensor | None] = [None]

    def keep_mask(_, args, kwargs) -> None:
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)  # (B, F), of frames
        kept[0] = None if mask is None else mask.bool().unsqueeze(1)  # (B, 1, F)

    def set_to_zero(_, args, output: Tensor) -> Tensor:  # (B, D, F)
        return output if kept[0] is None else output * kept[0]

    encoder.register_forward_pre_hook(keep_mask, with_kwargs=True)
    for layer in encoder.pos_conv_embed.layers:
        layer.register_forward_hook(set_to_zero)
