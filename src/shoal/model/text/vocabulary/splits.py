"""How byte-level BPE vocabularies divide a text into words before merging, by the name that a GGUF file gives.

Source: the pre_tokenizer and normalizer in the tokenizer.json of the models that the names stand for; llama.cpp lists
the names and their models in convert_hf_to_gguf_update.py and src/llama-vocab.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_QWEN35 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_CASED = rf"{_BEFORE}{_UPPER}*{_LOWER}+%s|{_BEFORE}{_UPPER}+{_LOWER}*%s"
_SLASHED = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT4O = rf"{_CASED % (_ENDINGS + '?', _ENDINGS + '?')}|\p{{N}}{{1,3}}|{_SLASHED}"
_TEKKEN = rf"{_CASED % ('', '')}|\p{{N}}|{_SLASHED}"
_YOUTU = rf"{_CASED % (_ENDINGS + '?', _ENDINGS + '?')}|\p{{N}}|{_SLASHED}"
_KIMI_UPPER, _KIMI_LOWER = (f"{one[:-1]}&&[^\\p{{Han}}]]" for one in (_UPPER, _LOWER))
_KIMI = (
    rf"\p{{Han}}+|{_BEFORE}{_KIMI_UPPER}*{_KIMI_LOWER}+{_ENDINGS}?|{_BEFORE}{_KIMI_UPPER}+{_KIMI_LOWER}*{_ENDINGS}?"
    rf"|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
)
_BAILING = rf"'(?i:[sdmt]|ll|ve|re)|{_BEFORE}+\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_SEED = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_EXAONE_MOE = (
    rf"{_ENDINGS}|{_BEFORE}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_JAIS2 = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+|" + (
    "|".join(rf"\s{{{count}}}(?!\S)" for count in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2")) + r"|\s{1}"
)
_MINICPM5 = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}+|{_SYMBOLS}|{_SPACES}"
_ASCII_SYMBOLS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_WORDS_AND_SYMBOLS = rf"{_ASCII_SYMBOLS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
_DEEPSEEK3_WORDS = rf"{_WORDS_AND_SYMBOLS}[\r\n]*|{_SPACES}"
_SPARK_WORDS = rf"{_WORDS_AND_SYMBOLS}|[\r\n]|\s+(?!\S)|\s+"
_CHINESE = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CHINESE_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_YOUTU_SCRIPTS = (
    "[\uac00-\ud7a3\u3131-\u318e]+"
    "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|" + _CHINESE_AND_KANA
)
_AFMOE_SCRIPTS = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e00-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_CASED_LETTERS = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_DEEPSEEK_SYMBOLS = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_GROUPS_OF_THREE = r"\d{1,3}(?=(?:\d{3})*\b)"
_LINES = r"[^\n]+|[\n]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordSplit:
    """How a text is divided into words, and what else a vocabulary's name says about it."""

    patterns: tuple[str, ...]
    """Patterns, applied one after another. Matches become words, and so does the text between them."""
    nfc: bool = False
    """Whether the text is first brought to Unicode's composed form (NFC)."""
    ignore_merges: bool = False
    """Whether a word that is a token is taken whole, without merges that lead to it."""
    add_bos: bool = False
    """Whether BOS comes first, if the file does not say it."""
    byte_level: bool = True
    """Whether tokens are written in GPT-2's alphabet of bytes; otherwise they are text, with U+2581 for a space."""


_GPT2_SPLIT = WordSplit(patterns=(_GPT2,))
_GPT2_NFC = WordSplit(patterns=(_GPT2,), nfc=True)
_SINGLE_DIGITS = WordSplit(patterns=(r"\p{N}", _GPT2))
_LLAMA3_SPLIT = WordSplit(patterns=(_LLAMA3,), ignore_merges=True, add_bos=True)
_QWEN2_SPLIT = WordSplit(patterns=(_QWEN2,), nfc=True)
_DEEPSEEK3_SPLIT = WordSplit(patterns=(r"\p{N}{1,3}", _CHINESE_AND_KANA, _DEEPSEEK3_WORDS))
_PIECES_SPLIT = WordSplit(patterns=(_LINES,), byte_level=False)

_BY_NAMES: dict[tuple[str, ...], WordSplit] = {
    ("default",): WordSplit(patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"): _LLAMA3_SPLIT,
    ("jina-v5-nano",): _LLAMA3_SPLIT,
    ("minicpm5",): WordSplit(patterns=(r"\p{N}{1,3}", _MINICPM5), ignore_merges=True),
    ("dbrx", "smaug-bpe"): WordSplit(patterns=(_LLAMA3,)),
    ("chatglm-bpe",): WordSplit(patterns=(_LLAMA3,)),
    ("glm4", "glm5"): WordSplit(patterns=(_LLAMA3,), ignore_merges=True),
    ("jais-2",): WordSplit(patterns=(_JAIS2,)),
    ("deepseek-llm",): WordSplit(
        patterns=(
            r"[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            rf"\s?[{_DEEPSEEK_SYMBOLS}]+",
            r"\s+$",
            _CHINESE,
            r"\p{N}+",
        )
    ),
    ("deepseek-coder",): WordSplit(patterns=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE, r"\p{N}")),
    ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"): _DEEPSEEK3_SPLIT,
    ("spark2_5",): WordSplit(patterns=(r"\p{N}{1,3}", _CHINESE_AND_KANA, _SPARK_WORDS, r"\p{N}")),
    ("youtu",): WordSplit(patterns=(_YOUTU_SCRIPTS, _YOUTU), ignore_merges=True),
    ("falcon",): WordSplit(patterns=(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    ("starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"): _SINGLE_DIGITS,
    ("command-r",): WordSplit(patterns=(r"\p{N}", _GPT2), nfc=True),
    ("gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum"): _GPT2_SPLIT,
    ("exaone4", "jais", "trillion", "granite-docling", "jina-v1-en", "jina-v2-code", "roberta-bpe"): _GPT2_SPLIT,
    ("mpt", "olmo", "modern-bert"): _GPT2_NFC,
    ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"): _QWEN2_SPLIT,
    ("stablelm2", "hunyuan", "solar-open", "grok-2"): WordSplit(patterns=(_QWEN2,)),
    ("qwen35",): WordSplit(patterns=(_QWEN35,), nfc=True),
    ("laguna",): WordSplit(patterns=(_LINES, _QWEN2)),
    ("ufakzeka",): WordSplit(patterns=(rf"{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_SPACES}",)),
    ("poro-chat", "bloom", "gpt3-finnish"): WordSplit(patterns=(_BLOOM,)),
    ("viking",): WordSplit(patterns=(_BLOOM, r"\p{N}")),
    ("tekken",): WordSplit(patterns=(_TEKKEN,), ignore_merges=True, add_bos=True),
    ("chameleon",): WordSplit(
        patterns=(
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        add_bos=True,
    ),
    ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"): WordSplit(patterns=(_GPT4O,)),
    ("granite-embed-multi-97m",): WordSplit(patterns=(_GPT4O,), ignore_merges=True),
    ("tiny_aya", "cohere2moe"): WordSplit(patterns=(_GROUPS_OF_THREE, _GPT4O)),
    ("kimi-k2",): WordSplit(patterns=(_KIMI,)),
    ("superbpe",): WordSplit(patterns=(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    ("bailingmoe", "bailingmoe2", "llada-moe"): WordSplit(patterns=(_BAILING,)),
    ("seed-coder",): WordSplit(patterns=(_SEED,)),
    ("afmoe",): WordSplit(patterns=(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", _AFMOE_SCRIPTS, _DEEPSEEK3_WORDS)),
    ("exaone-moe",): WordSplit(patterns=(_EXAONE_MOE,)),
    ("gemma4", "granite-embed-multi-311m"): WordSplit(patterns=(_LINES,), byte_level=False, add_bos=True),
    ("sarvam-moe",): _PIECES_SPLIT,
}
SPLITS = MappingProxyType({name: split for names, split in _BY_NAMES.items() for name in names})
"""Splits by values of tokenizer.ggml.pre."""
