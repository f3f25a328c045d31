"""All families that can be read from a Hugging Face directory, by the `model_type` of a config.json."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.model.formats.huggingface.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3, GLM4_MOE_LITE
from shoal.model.formats.huggingface.families.family import Family
from shoal.model.formats.huggingface.families.gemma.earlier import GEMMA, GEMMA2, GEMMA3, GEMMA3_TEXT
from shoal.model.formats.huggingface.families.gemma.later import GEMMA3N, GEMMA3N_TEXT, GEMMA4, GEMMA4_TEXT
from shoal.model.formats.huggingface.families.glm import GLM, GLM4, GLM4_MOE
from shoal.model.formats.huggingface.families.gpt_oss import GPT_OSS
from shoal.model.formats.huggingface.families.granite import GRANITE, GRANITE_MOE
from shoal.model.formats.huggingface.families.layer_norm.command_r import COHERE, COHERE2
from shoal.model.formats.huggingface.families.layer_norm.gpt import FALCON, GPT2, GPT_NEOX, PHI
from shoal.model.formats.huggingface.families.layer_norm.starcoder import NEMOTRON, STABLELM, STARCODER2
from shoal.model.formats.huggingface.families.llama import ARCEE, LLAMA, LLAMA4, LLAMA4_TEXT, SEED_OSS, SMOLLM3
from shoal.model.formats.huggingface.families.mistral import MINISTRAL, MINISTRAL3, MISTRAL, MISTRAL3, MIXTRAL
from shoal.model.formats.huggingface.families.more_rms import (
    ERNIE4_5,
    ERNIE4_5_MOE,
    HUNYUAN,
    HUNYUAN_MOE,
    INTERNLM2,
    INTERNLM3,
    MINIMAX_M2,
)
from shoal.model.formats.huggingface.families.olmo import EXAONE4, OLMO2, OLMO3, OLMOE
from shoal.model.formats.huggingface.families.phi import PHI3, PHIMOE
from shoal.model.formats.huggingface.families.qwen import (
    QWEN2,
    QWEN2_MOE,
    QWEN2_VL,
    QWEN3,
    QWEN3_MOE,
    QWEN3_VL,
    QWEN3_VL_MOE,
)
from shoal.model.formats.huggingface.families.recurrent.granite_hybrid import GRANITE_HYBRID
from shoal.model.formats.huggingface.families.recurrent.lfm2 import LFM2, LFM2_MOE
from shoal.model.formats.huggingface.families.recurrent.nemotron_h import NEMOTRON_H
from shoal.model.formats.huggingface.families.recurrent.qwen_next import (
    QWEN3_5,
    QWEN3_5_MOE,
    QWEN3_5_MOE_TEXT,
    QWEN3_5_TEXT,
    QWEN3_NEXT,
)
from shoal.model.formats.huggingface.families.whisper import WHISPER

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,
    "llama4_text": LLAMA4_TEXT,
    "llama4": LLAMA4,
    "mistral": MISTRAL,
    "mistral3": MISTRAL3,
    "ministral": MINISTRAL,
    "ministral3": MINISTRAL3,
    "mixtral": MIXTRAL,
    "smollm3": SMOLLM3,
    "granite": GRANITE,
    "granitemoe": GRANITE_MOE,
    "granitemoeshared": GRANITE_MOE,
    "arcee": ARCEE,
    "seed_oss": SEED_OSS,
    "qwen2": QWEN2,
    "qwen2_moe": QWEN2_MOE,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_VL,
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL_MOE,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3_TEXT,
    "gemma3": GEMMA3,
    "gemma3n_text": GEMMA3N_TEXT,
    "gemma3n": GEMMA3N,
    "gemma4_text": GEMMA4_TEXT,
    "gemma4": GEMMA4,
    "phi3": PHI3,
    "phimoe": PHIMOE,
    "phi": PHI,
    "cohere": COHERE,
    "cohere2": COHERE2,
    "starcoder2": STARCODER2,
    "stablelm": STABLELM,
    "nemotron": NEMOTRON,
    "falcon": FALCON,
    "gpt_neox": GPT_NEOX,
    "gpt2": GPT2,
    "olmo2": OLMO2,
    "olmo3": OLMO3,
    "olmoe": OLMOE,
    "exaone4": EXAONE4,
    "gpt_oss": GPT_OSS,
    "glm": GLM,
    "glm4": GLM4,
    "glm4_moe": GLM4_MOE,
    "glm4_moe_lite": GLM4_MOE_LITE,
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
    "kimi_k2": DEEPSEEK_V3,
    "ernie4_5": ERNIE4_5,
    "ernie4_5_moe": ERNIE4_5_MOE,
    "internlm2": INTERNLM2,
    "internlm3": INTERNLM3,
    "hunyuan_v1_dense": HUNYUAN,
    "hunyuan_v1_moe": HUNYUAN_MOE,
    "minimax_m2": MINIMAX_M2,
    "granitemoehybrid": GRANITE_HYBRID,
    "nemotron_h": NEMOTRON_H,
    "lfm2": LFM2,
    "lfm2_moe": LFM2_MOE,
    "qwen3_next": QWEN3_NEXT,
    "qwen3_5_text": QWEN3_5_TEXT,
    "qwen3_5": QWEN3_5,
    "whisper": WHISPER,
    "qwen3_5_moe_text": QWEN3_5_MOE_TEXT,
    "qwen3_5_moe": QWEN3_5_MOE,
}
