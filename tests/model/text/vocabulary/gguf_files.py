"""GGUF files that hold a vocabulary and nothing else, and a vocabulary of each of SentencePiece's kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest

CORPUS = (
    "A shoal is many fish that swim as one. When the water is cold they keep close together, and when it is warm",
    "they spread out over the sand. The fishermen say that a shoal never sleeps: one part rests while the other part",
    "keeps watch. In the morning the boats go out, and in the evening the boats come home with the tide.",
    "Grüße, déjà vu, naïve café; 12 boats, 345 nets and 6789 fish. def swim(x): return x  # y  z   aaa aaaa",
)
ALPHABET = "aaaaabcdeehilmnoprstvwy    ABT.,'0123456789\n\tüéß漢🐟\u0301\u2581"
"""of random texts"""


def vocabulary_file(folder: Path, **metadata: Any) -> Path:
    """A file with these keys below `tokenizer.ggml`; None leaves one out."""
    path = folder / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in metadata.items():
        key = f"tokenizer.ggml.{name}"
        match value:
            case None:
                pass
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, list(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def trained(folder: Path, kind: str, corpus: Sequence[str] = CORPUS, **options: Any) -> Any:
    """A small SentencePiece model of a kind (`bpe`, `unigram`), as `tokenizer.model` in the folder; its processor."""
    sentencepiece = pytest.importorskip("sentencepiece")
    prefix = folder / "tokenizer"
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([*corpus] * 3),
        model_prefix=str(prefix),
        model_type=kind,
        **{"vocab_size": 420, "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 2, **options},
    )
    return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")


def metadata_of(processor: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes of a SentencePiece model: user-defined tokens have plain spaces."""
    ids = range(processor.get_piece_size())
    kinds = [_kind(processor, token_id) for token_id in ids]
    pieces = [processor.id_to_piece(token_id) for token_id in ids]
    return {
        "tokens": [
            text.replace("\u2581", " ") if kind == gguf.TokenType.USER_DEFINED else text
            for text, kind in zip(pieces, kinds, strict=True)
        ],
        "scores": [processor.get_score(token_id) for token_id in ids],
        "token_type": kinds,
        "unknown_token_id": processor.unk_id(),
        "bos_token_id": processor.bos_id(),
        "eos_token_id": processor.eos_id(),
    }


def _kind(processor: Any, token_id: int) -> int:
    if processor.is_unknown(token_id):
        return gguf.TokenType.UNKNOWN
    if processor.is_control(token_id):
        return gguf.TokenType.CONTROL
    if processor.is_byte(token_id):
        return gguf.TokenType.BYTE
    is_user_defined = processor.id_to_piece(token_id).replace("\u2581", "") == "" and processor.get_score(token_id) == 0
    return gguf.TokenType.USER_DEFINED if is_user_defined else gguf.TokenType.NORMAL
