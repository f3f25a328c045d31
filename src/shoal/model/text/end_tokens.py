"""The tokens of a GGUF vocabulary that end a text, a turn or a message. Many files name only one of them as EOS.

Source: llama.cpp, src/llama-vocab.cpp, which uses the same tokens.
"""

from __future__ import annotations

from tokenizers import Tokenizer as Backend

from shoal.errors import ModelLoadError
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.text.vocabulary.tokens import ALWAYS_CONTROL

_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
"""Parts of keys below tokenizer.ggml. Text that fills in code ends at padding and at the next file."""
_NAMES = ALWAYS_CONTROL | {
    *("</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "[e~[", "<|flush|>", "<|calls|>"),
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|file_sep|>"),
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
}
_MESSAGE_END = "<|end|>"
"""Ends one of several messages, in vocabularies that also have tokens for the end of the turn."""
_TURN_ENDS = (("<|return|>", "<|call|>"), ("<|calls|>", "<|flush|>"))


def end_token_ids(header: GgufHeader, backend: Backend) -> tuple[int, ...]:
    """Ids of tokens that the metadata name as ends, and of special tokens with well-known names of ends.

    Raises:
        ModelLoadError: the metadata name an id that is not a token.
    """
    special = {
        token.content: token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special
    }
    found = {special[name] for name in _NAMES if name in special}
    if any(all(name in special for name in names) for names in _TURN_ENDS):
        found.discard(special.get(_MESSAGE_END, -1))
    return tuple(sorted(found | {*_named(header, backend.get_vocab_size())}))


def _named(header: GgufHeader, num_tokens: int) -> list[int]:
    values = {key: header.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in _KEYS}
    for key, value in values.items():
        if value is not None and (type(value) is not int or not 0 <= value < num_tokens):
            raise ModelLoadError(
                f"{header.path}: tokenizer.ggml.{key}_token_id is {value!r}, which is not one of its "
                f"{num_tokens} tokens"
            )
    return [value for value in values.values() if value is not None]
