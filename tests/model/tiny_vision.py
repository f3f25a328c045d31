"""Tiny random models that see, as transformers writes them, with tokenizer, chat template and preprocessor."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken

from tests.model.tiny_models import VOCAB_SIZE, tiny_tokenizer

QWEN_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA_TOKENS = ("<start_of_image>", "<image_soft_token>", "<end_of_image>")
GEMMA_TEMPLATE = QWEN_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<start_of_image>")
SIZES = ((100, 140), (56, 90), (130, 60))
"""height and width of `picture`s"""


def make_tiny_vision(family: str, directory: Path) -> Path:
    """Write one. `family`: a key of MAKERS."""
    import torch

    pytest.importorskip("transformers")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, tokens, template, preprocessor = MAKERS[family]()
    directory.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(directory)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return directory


def picture(seed: int) -> np.ndarray:
    """Pixels of a picture, of one of SIZES: blocks of colors, which survive a JPEG."""
    height, width = SIZES[seed % len(SIZES)]
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(8, 0).repeat(8, 1)[:height, :width])


def picture_file(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """The same as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def data_url(pixels: np.ndarray) -> str:
    """The same within a request."""
    return "data:image/png;base64," + base64.b64encode(picture_file(pixels)).decode()


def _qwen2_5_vl() -> tuple[Any, tuple[str, ...], str, dict[str, Any]]:
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = {
        "vocab_size": VOCAB_SIZE + len(QWEN_TOKENS),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "initializer_range": 0.15,
        "bos_token_id": None,
        "eos_token_id": 2,
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 14,
        "window_size": 56,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.2,
    }
    config = AutoConfig.for_model(
        "qwen2_5_vl",
        text_config=text,
        vision_config=vision,
        vision_start_token_id=VOCAB_SIZE,
        image_token_id=VOCAB_SIZE + 1,
        vision_end_token_id=VOCAB_SIZE + 2,
        video_token_id=0,
        tie_word_embeddings=False,
    )
    preprocessor = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 56 * 56, "max_pixels": 20 * 784}
    return AutoModelForImageTextToText.from_config(config), QWEN_TOKENS, QWEN_TEMPLATE, preprocessor


def _gemma3() -> tuple[Any, tuple[str, ...], str, dict[str, Any]]:
    """Its windows are shorter than a picture."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = {
        "vocab_size": VOCAB_SIZE + len(GEMMA_TOKENS),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "max_position_embeddings": 512,
        "sliding_window": 12,
        "tie_word_embeddings": False,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "initializer_range": 0.15,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 112,
        "patch_size": 14,
        "vision_use_head": False,
        "initializer_range": 0.2,
    }
    config = AutoConfig.for_model(
        "gemma3",
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=16,
        boi_token_index=VOCAB_SIZE,
        image_token_id=VOCAB_SIZE + 1,
        eoi_token_index=VOCAB_SIZE + 2,
        tie_word_embeddings=False,
    )
    preprocessor = {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 112, "width": 112}}
    model = AutoModelForImageTextToText.from_config(config)
    for name, weights in model.named_parameters():  # which the library leaves at values that hide mistakes
        if "multi_modal_projector" in name or "position_embedding" in name or name.endswith("bias"):
            weights.data.normal_(0.0, 0.2)
    return model, GEMMA_TOKENS, GEMMA_TEMPLATE, preprocessor


def _qwen3_vl(model_type: str = "qwen3_vl", **text_settings: Any) -> tuple[Any, tuple[str, ...], str, dict[str, Any]]:
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = {
        "vocab_size": VOCAB_SIZE + len(QWEN_TOKENS),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
        "initializer_range": 0.15,
        "bos_token_id": None,
        "eos_token_id": 2,
        **text_settings,
    }
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 16,
        "out_hidden_size": 64,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0, 2],
        "initializer_range": 0.2,
    }
    config = AutoConfig.for_model(
        model_type,
        text_config=text,
        vision_config=vision,
        vision_start_token_id=VOCAB_SIZE,
        image_token_id=VOCAB_SIZE + 1,
        vision_end_token_id=VOCAB_SIZE + 2,
        video_token_id=0,
        tie_word_embeddings=False,
    )
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 16,
        "size": {"shortest_edge": 64 * 64, "longest_edge": 20 * 1024},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return AutoModelForImageTextToText.from_config(config), QWEN_TOKENS, QWEN_TEMPLATE, preprocessor


def _qwen3_vl_moe() -> tuple[Any, tuple[str, ...], str, dict[str, Any]]:
    """Its weights are such that the greedy answer of the tests holds no placeholder, which transformers refuses."""
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    return _qwen3_vl("qwen3_vl_moe", **experts, initializer_range=0.2)


MAKERS = {
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl_moe,
    "gemma3": _gemma3,
}
