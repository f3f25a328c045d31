"""Makes the models in `files/` with the tools that people export with. They are kept, for the tools are large and slow.

    python make_files.py checkpoints                          # transformers 5
    python make_files.py merged                               # optimum-onnx 0.1.0
    python -m onnxruntime_genai.models.builder -i CHECKPOINT -o files/genai -p fp32 -e cpu \
        --extra_options prune_lm_head=true -c CACHE           # onnxruntime-genai 0.18.0
    (the same to files/genai_int4 by -p int4, without extra options)
    python make_files.py answers                              # transformers 5
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

FILES = Path(__file__).parent / "files"
CHECKPOINTS = Path("checkpoints")
PROMPTS = [[5, 20, 33, 100, 200], [7, 8, 9] * 8, [5, 6], [21] * 20, [60 + number for number in range(40)]]
NUM_TOKENS = 24


def make_checkpoints() -> None:
    """A llama and a qwen2 with random weights large enough that logits lie well apart, and their tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=288, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(["the tide comes in and the tide goes out; a shoal of fish swims with it"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    sizes: dict[str, Any] = {
        "vocab_size": 288,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    for name, model in {
        "llama": LlamaForCausalLM(LlamaConfig(**sizes)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**sizes)),
    }.items():
        model.eval().save_pretrained(CHECKPOINTS / name)
        tokenizer.save_pretrained(CHECKPOINTS / name)


def make_merged() -> None:
    """One graph with a branch for texts that begin and one for those that go on, as optimum merges two exports."""
    import torch
    from optimum.onnx.graph_transformations import merge_decoders
    from transformers import AutoModelForCausalLM, DynamicCache

    class Exported(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *pasts: Any) -> tuple[Any, ...]:
            cache = DynamicCache()
            for layer in range(len(pasts) // 2):
                cache.update(pasts[2 * layer], pasts[2 * layer + 1], layer)
            said = self.model(
                input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=cache
            )
            return said.logits, *(one for layer in said.past_key_values.layers for one in (layer.keys, layer.values))

    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / "llama", attn_implementation="eager")
    pasts = [torch.randn(2, 1, 3, 16) for _ in range(4)]
    names = [f"past_key_values.{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    presents = [name.replace("past_key_values", "present") for name in names]
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in ("input_ids", "position_ids", "logits")}
    axes["attention_mask"] = {0: "batch_size", 1: "past_sequence_length + sequence_length"}
    axes |= {name: {0: "batch_size", 2: "past_sequence_length"} for name in names}
    axes |= {name: {0: "batch_size", 2: "past_sequence_length + sequence_length"} for name in presents}
    for file, given, length in (("plain.onnx", [], 2), ("past.onnx", pasts, 5)):
        arguments = (torch.ones(2, 2).long(), torch.ones(2, length).long(), torch.tensor([[0, 1]] * 2), *given)
        inputs = ["input_ids", "attention_mask", "position_ids", *names[: len(given)]]
        named = {name: axis for name, axis in axes.items() if name in (*inputs, "logits", *presents)}
        torch.onnx.export(
            Exported(model),
            arguments,
            file,
            input_names=inputs,
            output_names=["logits", *presents],
            dynamic_axes=named,
            dynamo=False,
        )
    folder = FILES / "merged"
    folder.mkdir(parents=True, exist_ok=True)
    merge_decoders("plain.onnx", "past.onnx", save_path=folder / "decoder_model_merged.onnx", strict=False)
    for path in (CHECKPOINTS / "llama").iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copy(path, folder / path.name)


def make_answers() -> None:
    """What transformers says: greedy continuations of token ids."""
    import torch
    from transformers import AutoModelForCausalLM

    answers = {}
    for name in ("llama", "qwen2"):
        model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / name)
        model.generation_config.eos_token_id = None
        answers[name] = [
            model.generate(torch.tensor([prompt]), max_new_tokens=NUM_TOKENS, do_sample=False)[
                0, len(prompt) :
            ].tolist()
            for prompt in PROMPTS
        ]
    (FILES / "answers.json").write_text(json.dumps({"prompts": PROMPTS, **answers}))


if __name__ == "__main__":
    {"checkpoints": make_checkpoints, "merged": make_merged, "answers": make_answers}[sys.argv[1]]()
