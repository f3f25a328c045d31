"""Write a GGUF file's weights and vocabulary as a Hugging Face directory; runs with the Python of vLLM's environment,
where accelerate and gguf are installed as well.

hugging_face_copy.py MODEL.gguf FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Dequantize and write."""
    source, folder = Path(sys.argv[1]), sys.argv[2]
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # The weights are plain by now, and would not be written otherwise.
    vars(model)["hf_quantizer"] = None
    del vars(model.config)["quantization_config"]
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
