"""Tiny random encoders on disk, as sentence-transformers and transformers save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country",
)  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_encoder(
    folder: Path,
    kind: str = "bert",
    *,
    compares: bool = False,
    pooling: str | None = "mean_tokens",
    is_normalized: bool = True,
    more: dict[str, Any] | None = None,
) -> Path:
    """A folder with weights, tokenizer and, where there is a `pooling`, what sentence-transformers adds."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    names = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
    sizes: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "type_vocab_size": 2 if kind == "bert" else 1,
        "pad_token_id": 0 if kind == "bert" else 1,
        "initializer_range": 0.3,
    }
    config = getattr(transformers, f"{names[kind]}Config")(**sizes, **({"num_labels": 1} if compares else {}))
    torch.manual_seed(0)
    suffix = "ForSequenceClassification" if compares else "Model"
    model = getattr(transformers, names[kind] + suffix)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    _tokenizer(pad_id=sizes["pad_token_id"]).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 64})
    )
    if pooling is not None:
        steps = ["Transformer", "Pooling", *(["Normalize"] if is_normalized else [])]
        places = ["", "1_Pooling", "2_Normalize"]
        modules = [
            {"idx": index, "name": str(index), "path": place, "type": f"sentence_transformers.models.{step}"}
            for index, (step, place) in enumerate(zip(steps, places, strict=False))
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        flags = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "max_tokens")}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **flags}))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
    for name, content in (more or {}).items():
        (folder / name).write_text(json.dumps(content))
    return folder


def _tokenizer(pad_id: int) -> Tokenizer:
    """Words; cut at 16 tokens and padded to them, as some models' files are, which nobody wants here."""
    special = list(SPECIAL)
    if pad_id:
        special[0], special[pad_id] = special[pad_id], special[0]
    vocabulary = {word: index for index, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ends)
    tokenizer.add_special_tokens(special)
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_id=pad_id, pad_token="[PAD]")
    return tokenizer
