"""A tokenizer from a `tokenizer.model`, SentencePiece's own file.

Only the needed fields are declared here, so that neither the sentencepiece package nor generated code is required.
Source: SentencePiece, src/sentencepiece_model.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tokenizers import Tokenizer

from shoal.model.text.vocabulary.guard import while_building
from shoal.model.text.vocabulary.pieces import SPACE, Normalization
from shoal.model.text.vocabulary.sentencepiece_bpe import build_sentencepiece_bpe
from shoal.model.text.vocabulary.tokens import TokenKind, Vocabulary
from shoal.model.text.vocabulary.unigram import build_unigram

MAX_FILE_BYTES = 1 << 24
"""Three times the largest known (Gemma 3: 4.7 MB)."""
UNIGRAM, BPE = 1, 2
"""Values of TrainerSpec.model_type."""

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "shoal.sentencepiece"
_MESSAGES: dict[str, tuple[tuple[str, int, int, str], ...]] = {
    "Piece": (
        ("piece", 1, _Field.TYPE_BYTES, ""),
        ("score", 2, _Field.TYPE_FLOAT, ""),
        ("kind", 3, _Field.TYPE_INT32, "1"),
    ),
    "Trainer": (
        ("model_type", 3, _Field.TYPE_INT32, "1"),
        ("unk_id", 40, _Field.TYPE_INT32, "0"),
        ("bos_id", 41, _Field.TYPE_INT32, "1"),
        ("eos_id", 42, _Field.TYPE_INT32, "2"),
    ),
    "Normalizer": (
        ("precompiled_charsmap", 2, _Field.TYPE_BYTES, ""),
        ("add_dummy_prefix", 3, _Field.TYPE_BOOL, "true"),
        ("remove_extra_whitespaces", 4, _Field.TYPE_BOOL, "true"),
    ),
}
"""Fields of each message: name, number, type and default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePieceFile:
    """Content of a `tokenizer.model`."""

    tokenizer: Tokenizer
    """The tokenizer, which puts no tokens around a text."""
    bos_id: int
    """-1 for none"""
    eos_id: int
    """-1 for none"""
    is_unigram: bool


def read_sentencepiece(path: Path, *, add_space_prefix: bool | None = None) -> SentencePieceFile:
    """The tokenizer of a file.

    Args:
        path: of the file.
        add_space_prefix: whether a text gets a leading space; None: as the file says.

    Raises:
        ModelLoadError: the file is broken, of another kind, or too large.
    """
    with while_building(f"{path}: it is no SentencePiece model that can be read"):
        if (num_bytes := path.stat().st_size) > MAX_FILE_BYTES:
            raise ValueError(f"it has {num_bytes} bytes, more than {MAX_FILE_BYTES}")
        model = model_class()()
        model.ParseFromString(path.read_bytes())
        return _build(model, add_space_prefix)


def _build(model: Any, add_space_prefix: bool | None) -> SentencePieceFile:
    trainer, spec = model.trainer, model.normalizer
    if trainer.model_type not in (UNIGRAM, BPE):
        raise ValueError(f"it cuts text into words or characters (model type {trainer.model_type})")
    kinds = [piece.kind for piece in model.pieces]
    texts = [piece.piece.decode("utf-8") for piece in model.pieces]
    vocabulary = Vocabulary(
        tokens=[_matched(text, kind) for text, kind in zip(texts, kinds, strict=True)],
        kinds=kinds,
        scores=[piece.score for piece in model.pieces],
        unknown_id=trainer.unk_id,
    )
    normalization = Normalization(
        add_space_prefix=spec.add_dummy_prefix if add_space_prefix is None else bool(add_space_prefix),
        remove_extra_spaces=spec.remove_extra_whitespaces,
        charsmap=spec.precompiled_charsmap,
    )
    is_unigram = trainer.model_type == UNIGRAM
    build = build_unigram if is_unigram else build_sentencepiece_bpe
    return SentencePieceFile(
        tokenizer=build(vocabulary, normalization),
        bos_id=trainer.bos_id,
        eos_id=trainer.eos_id,
        is_unigram=is_unigram,
    )


def _matched(text: str, kind: int) -> str:
    """A token as it is searched for in a text, where spaces are still spaces."""
    return text.replace(SPACE, " ") if kind == TokenKind.USER_DEFINED else text


@cache
def model_class() -> Any:
    """The protobuf message of the file: pieces, trainer and normalizer."""
    file = descriptor_pb2.FileDescriptorProto(name="shoal/sentencepiece.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, default in fields:
            message.field.add(
                name=field, number=number, type=kind, label=_Field.LABEL_OPTIONAL, default_value=default or None
            )
    model = file.message_type.add(name="Model")
    for field, number, name in (("pieces", 1, "Piece"), ("trainer", 2, "Trainer"), ("normalizer", 3, "Normalizer")):
        label = _Field.LABEL_REPEATED if field == "pieces" else _Field.LABEL_OPTIONAL
        kind = _Field.TYPE_MESSAGE
        model.field.add(name=field, number=number, type=kind, label=label, type_name=f".{_PACKAGE}.{name}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))
