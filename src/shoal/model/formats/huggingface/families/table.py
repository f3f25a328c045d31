"""Every family that can be read from a Hugging Face directory, by the `model_type` of its config.json."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.model.formats.huggingface.families.family import Family
from shoal.model.formats.huggingface.families.gemma import GEMMA3, GEMMA3_TEXT
from shoal.model.formats.huggingface.families.gpt_oss import GPT_OSS
from shoal.model.formats.huggingface.families.llama import LLAMA, MISTRAL, MIXTRAL
from shoal.model.formats.huggingface.families.phi import PHI3
from shoal.model.formats.huggingface.families.qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mixtral": MIXTRAL,
    "qwen2": QWEN2,
    "qwen2_moe": QWEN2_MOE,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "gemma3_text": GEMMA3_TEXT,
    "gemma3": GEMMA3,
    "phi3": PHI3,
    "gpt_oss": GPT_OSS,
}
