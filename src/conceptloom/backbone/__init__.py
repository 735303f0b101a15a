"""The base model behind one door: the only folder that imports diffusers and transformers models.

Axis legend: B batch, K concepts, H W pixels, c channels, h w latent cells, A heads, S text tokens, D embedding width,
R placeholder rows, V vocabulary.
"""

from conceptloom.backbone.adapters import (
    DenseKind,
    WeightsDelta,
    WeightsKind,
    add_lora,
    applied_weights,
    apply_difference,
    live_weights,
    load_lora_state,
    lora_state,
    remove_lora,
    restore_weights,
    unfreeze,
    weight_difference,
    weight_names,
    weights_state,
)
from conceptloom.backbone.attention import (
    AttentionRecord,
    record_affinity,
    record_attention,
    selector_for,
)
from conceptloom.backbone.devices import telling_of_memory, with_less_memory
from conceptloom.backbone.loading import builtin_words, load_backbone
from conceptloom.backbone.model import (
    AttentionLayer,
    Backbone,
    Family,
    ModelIdentity,
    Moments,
    family_of,
)
from conceptloom.backbone.prompts import (
    PLACEHOLDER,
    TokenizedPrompt,
    dropped_tokens,
    encode_prompts,
    initial_rows,
    random_rows,
    refuse_stray_brackets,
    tokenize,
    unknown_words,
    vocabulary_spread,
)
from conceptloom.backbone.sampling import SampleKey, sample
from conceptloom.backbone.schedule import NoiseSchedule

__all__ = [
    "PLACEHOLDER",
    "AttentionLayer",
    "AttentionRecord",
    "Backbone",
    "DenseKind",
    "Family",
    "ModelIdentity",
    "Moments",
    "NoiseSchedule",
    "SampleKey",
    "TokenizedPrompt",
    "WeightsDelta",
    "WeightsKind",
    "add_lora",
    "applied_weights",
    "apply_difference",
    "builtin_words",
    "dropped_tokens",
    "encode_prompts",
    "family_of",
    "initial_rows",
    "live_weights",
    "load_backbone",
    "load_lora_state",
    "lora_state",
    "random_rows",
    "record_affinity",
    "record_attention",
    "refuse_stray_brackets",
    "remove_lora",
    "restore_weights",
    "sample",
    "selector_for",
    "telling_of_memory",
    "tokenize",
    "unfreeze",
    "unknown_words",
    "vocabulary_spread",
    "weight_difference",
    "weight_names",
    "weights_state",
    "with_less_memory",
]
