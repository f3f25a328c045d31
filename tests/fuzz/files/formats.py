"""Every format of file that a user can give: a good file, how it is changed, and what reads it."""

from __future__ import annotations

import io
import json
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from shoal.cli.graphs.files import read_arrays
from shoal.core.plan.graph import BatchAxes
from shoal.model.attention.paged_attention import native_available
from shoal.model.decoder.blocks import decoder_blocks
from shoal.model.formats.open_weights import open_weights
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.inspect import describe_graph
from shoal.model.packed.loader import PackedWeights
from shoal.model.text.chat_template import ChatTemplate
from shoal.model.text.tokenizer import load_tokenizer
from shoal.offline.files.row_source import open_rows
from shoal.planner.files.cluster_file import parse_cluster_file
from shoal.planner.files.fault_file import parse_fault_file
from shoal.planner.files.plan_file import read_plan, write_plan
from shoal.protocol.stage_interface import TensorSpec
from shoal.sim.traffic.trace_file import read_trace
from tests.fuzz.files.gguf_form import mutate_gguf
from tests.fuzz.files.protobufs import mutate_message
from tests.fuzz.files.trees import mutate_tree
from tests.fuzz.mutate import mutate
from tests.model.formats.huggingface.quantized.coded_files import CASES
from tests.model.tiny_models import CHAT_TEMPLATE, make_tiny_gguf, tiny_llama_tensors, tiny_tokenizer
from tests.planner.files.test_plan_file import make_plan

Files = dict[str, bytes]
"""the files of one input by name"""

_DEPTH = 20_000
"""Nesting that is deeper than a recursive reader can follow."""
INPUTS = (TensorSpec(name="x", dtype="float32", shape=("N", 3)), TensorSpec(name="n", dtype="int64", shape=("N",)))
MESSAGES = ({"role": "user", "content": "What is a shoal?"}, {"role": "assistant", "content": "Fish."})


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format. The first of a good input's files is the one that the reader is given, or their folder."""

    good: Callable[[], Files]
    change: Callable[[Files, random.Random], None]
    """in place; what it leaves alone stays good"""
    read: Callable[[Path], object]
    is_folder: bool = False
    """whether the reader is given the folder"""


def change_bytes(name: str) -> Callable[[Files, random.Random], None]:
    """Bytes of one file, wherever they are."""

    def change(files: Files, source: random.Random) -> None:
        files[name] = mutate([files[name]], source, max_bytes=1 << 20)

    return change


def either(
    one: Callable[[Files, random.Random], None], other: Callable[[Files, random.Random], None], *, share: float
) -> Callable[[Files, random.Random], None]:
    """`one` for that share of inputs."""
    return lambda files, source: (one if source.random() < share else other)(files, source)


# Language models


def read_language_model(path: Path) -> None:
    """What loading reads: the header, the shape of the model, every matrix and vector, and the tokenizer."""
    tokenizer = load_tokenizer(path)
    ids = tokenizer.encode("A shoal of 7 fish")
    tokenizer.decode(ids)
    if tokenizer.has_chat_template:
        tokenizer.chat_prompt(MESSAGES)
    source = open_weights(path)
    decoder_blocks(source, "auto")
    source.matrix("embedding", "auto")
    source.matrix("head", "auto")
    source.vector("final_norm")
    for layer in range(source.config.num_layers):
        for part in ("q", "k", "v", "o", "gate", "up", "down"):
            source.matrix(f"layers.{layer}.{part}", "auto")
        for part in ("attn_norm", "mlp_norm"):
            source.vector(f"layers.{layer}.{part}")


@cache
def _gguf(quant: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return make_tiny_gguf(Path(folder), quant=quant).read_bytes()


def change_gguf(files: Files, source: random.Random) -> None:
    """What the header says, of a file in one of several quantizations."""
    files["model.gguf"] = mutate_gguf(_gguf(source.choice(("F32", "F16", "Q8_0", "Q4_1"))), source)


@cache
def _folder() -> Files:
    """A Hugging Face directory, made without the libraries that usually make one."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        "hidden_act": "silu",
    }
    settings = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": _safetensors(),
        "model.safetensors.index.json": json.dumps(
            {"weight_map": dict.fromkeys(_hf_tensors(), "model.safetensors")}
        ).encode(),
        "tokenizer.json": tiny_tokenizer().to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
        "generation_config.json": json.dumps({"eos_token_id": [2]}).encode(),
    }


@cache
def _hf_tensors() -> Mapping[str, np.ndarray]:
    names = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "token_embd": "embed_tokens",
        "output_norm": "norm",
    }
    tensors: dict[str, np.ndarray] = {}
    for name, values in tiny_llama_tensors().items():
        parts = name.removesuffix(".weight").split(".")
        place = f"layers.{parts[1]}." if parts[0] == "blk" else ""
        tensors[f"model.{place}{names[parts[-1]]}.weight"] = values.astype(np.float32)
    return tensors


def _safetensors(header: object = None) -> bytes:
    """A file with this header over the true data; None: the right header."""
    true, data = {}, bytearray()
    for name, values in _hf_tensors().items():
        true[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + values.nbytes],
        }
        data += values.tobytes()
    text = json.dumps(true if header is None else header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def change_folder(files: Files, source: random.Random) -> None:
    """What one of the folder's files says, or its bytes, or whether it is there."""
    name = source.choice([*files, "config.json", "config.json", "tokenizer.json", "model.safetensors"])
    if source.random() < 0.1:
        change_bytes(name)(files, source)
    elif source.random() < 0.03:
        del files[name]
    elif source.random() < 0.02:
        files[name] = b"[" * _DEPTH + b"]" * _DEPTH
    elif name == "model.safetensors":
        length = int.from_bytes(files[name][:8], "little")
        files[name] = _safetensors(mutate_tree(json.loads(files[name][8 : 8 + length]), source))
    else:
        files[name] = json.dumps(mutate_tree(json.loads(files[name]), source)).encode()


_CODED = ("fp8-blocks", "ct-int4-asymmetric", "gptq-4-asymmetric", "gptq-4-act-order", "awq", "nf4-nested")
_CODED_PLACES = 0.3, 0.9
"""shares of what is changed: up to the first the settings, then the header, at last any bytes"""


@cache
def _coded_folder(case: str) -> Files:
    """The same with all layers quantized in one of several ways."""
    rng, tensors = np.random.default_rng(0), dict[str, np.ndarray]()
    for name, values in _hf_tensors().items():
        if "_proj" not in name:
            tensors[name] = values
            continue
        made, _ = CASES[case].make(rng, *values.shape)
        stem = name.removesuffix(".weight")
        tensors |= {f"{stem}.{end}": np.ascontiguousarray(tensor) for end, tensor in made.items()}
    config = json.loads(_folder()["config.json"]) | {"quantization_config": CASES[case].settings}
    files = {**_folder(), "config.json": json.dumps(config).encode(), "model.safetensors": save(tensors)}
    del files["model.safetensors.index.json"]
    return files


def change_coded(files: Files, source: random.Random) -> None:
    """The settings of a quantization, where tensors lie and of what type they are, or any bytes of them."""
    files.clear()
    files |= _coded_folder(source.choice(_CODED))
    place, weights = source.random(), files["model.safetensors"]
    if place < _CODED_PLACES[0]:
        config = json.loads(files["config.json"])
        config["quantization_config"] = mutate_tree(config["quantization_config"], source)
        files["config.json"] = json.dumps(config).encode()
    elif place < _CODED_PLACES[1]:
        length = int.from_bytes(weights[:8], "little")
        text = json.dumps(mutate_tree(json.loads(weights[8 : 8 + length]), source)).encode()
        files["model.safetensors"] = struct.pack("<Q", len(text)) + text + weights[8 + length :]
    else:
        change_bytes("model.safetensors")(files, source)


def read_coded(path: Path) -> None:
    """The same, and what the native kernels are given."""
    read_language_model(path)
    source = open_weights(path)
    for part in ("q", "k", "v", "o", "gate", "up", "down"):
        source.raw_rows(f"layers.0.{part}", "auto")
    if native_available():
        from shoal._native import ThreadPool

        PackedWeights(source, "auto", pool=ThreadPool(1)).layer(0)


_PIECES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 'x' * 10**9 }}",
    "{{ 9**9**9 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{% set a = [0] %}{% for i in range(40) %}{% set a = a + a %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ messages | batch(10**9) | list }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages[0].content.foo.bar }}",
    "{{ 1 / 0 }}",
    "{{ messages | tojson(indent=10**8) }}",
    "{{ 'x' | indent(10**9) }}",
    "{{ 'x' | center(10**9) }}",
    "{{ range(10**9) | list }}",
    "{{ range(10**18) | sum }}",
    "{{ raise_exception(messages) }}",
    "{{ strftime_now('%Y' * 10**6) }}",
    "{% include 'x' %}",
    "{{ cycler(1).next.__globals__ }}",
    "{{ lipsum(n=10**6) }}",
    "{% for m in messages recursive %}{{ loop([m]) }}{% endfor %}",
    "{{ messages | map(attribute='role') | join('x') | replace('', 'x' * 10**7) }}",
    "{{ ('a' | list * 10**8) | length }}",
    "{% endfor %}",
    "{{",
    "{% if %}",
    "\x00",
)


def change_template(files: Files, source: random.Random) -> None:
    """A hostile piece somewhere in the template, or its bytes."""
    text = files["template.jinja"].decode()
    for _ in range(source.randint(1, 2)):
        position = source.choice([0, len(text), source.randint(0, len(text))])
        text = text[:position] + source.choice(_PIECES) + text[position + source.choice((0, 0, 1, 5)) :]
    files["template.jinja"] = text.encode()


def render(path: Path) -> None:
    """As a chat request does."""
    ChatTemplate(path.read_text(errors="replace"), {"bos_token": "<s>"}).render(MESSAGES)


# Graphs and their inputs


@cache
def _onnx() -> bytes:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((3, 8)).astype(np.float32), "a"),
        numpy_helper.from_array(rng.standard_normal((8, 4)).astype(np.float32), "b"),
        numpy_helper.from_array(np.array([0, -1], np.int64), "shape"),
    ]
    outside = numpy_helper.from_array(np.zeros((4,), np.float32), "c")
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.data", "offset": "0", "length": "16"}.items():
        outside.external_data.add(key=key, value=value)
    then = helper.make_graph(
        [helper.make_node("Identity", ["k"], ["p"])], "then", [], [helper.make_tensor_value_info("p", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["k"], ["q"])], "else", [], [helper.make_tensor_value_info("q", 1, None)]
    )
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Half", ["h"], ["k"], domain="local"),
        helper.make_node("If", ["f"], ["d"], then_branch=then, else_branch=other),
        helper.make_node("MatMul", ["d", "b"], ["e"]),
        helper.make_node("Add", ["e", "c"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["y"]),
    ]
    function = helper.make_function(
        "local", "Half", ["u"], ["v"], [helper.make_node("Relu", ["u"], ["v"])], [helper.make_opsetid("", 21)]
    )
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3]), helper.make_tensor_value_info("f", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
        [*weights, outside],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    return model.SerializeToString()


def change_graph(files: Files, source: random.Random) -> None:
    """Fields of the model."""
    files["model.onnx"] = mutate_message(files["model.onnx"], onnx.ModelProto, source)


def read_graph(path: Path) -> None:
    """As `shoal inspect` does."""
    describe_graph(open_graph(path))


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _npz(arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, allow_pickle=False, **arrays)
    return file.getvalue()


_ARRAYS = {"x": np.ones((5, 3), np.float32), "n": np.arange(5)}


def change_npz(files: Files, source: random.Random) -> None:
    """The header of an array within, or the bytes of the archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", source.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, array in _ARRAYS.items():
            data = _npy(array)
            archive.writestr(f"{name}.npy", _changed_header(data, source) if source.random() < 0.6 else data)
    data = file.getvalue()
    files["in.npz"] = mutate([data], source, max_bytes=1 << 20) if source.random() < 0.4 else data


def change_npy(files: Files, source: random.Random) -> None:
    """The header, or bytes anywhere."""
    data = _npy(_ARRAYS["x"])
    files["in.npy"] = _changed_header(data, source) if source.random() < 0.7 else mutate([data], source)


def _changed_header(data: bytes, source: random.Random) -> bytes:
    """An .npy file with another header over the same data."""
    length = int.from_bytes(data[8:10], "little")
    text = data[10 : 10 + length].decode("latin1")
    old, new = source.choice(
        (
            ("(5, 3)", "(5, 2000000000000)"),
            ("(5, 3)", "(5, -3)"),
            ("(5, 3)", "(0, 4611686018427387904)"),
            ("(5, 3)", "(9223372036854775807, 9223372036854775807)"),
            ("(5, 3)", "(1,) * 100"),
            ("(5, 3)", "(" + "1, " * 80 + ")"),
            ("(5, 3)", "(5.0, 3)"),
            ("(5, 3)", "(True, 15)"),
            ("(5,)", "(1000000000,)"),
            ("'<f4'", "'|O'"),
            ("'<f4'", "'<f99999999'"),
            ("'<f4'", "'|V1000000000'"),
            ("'<f4'", "'<U1000000000'"),
            ("'<f4'", "[('a', '<f4')]"),
            ("'<f4'", "[" * 200 + "]" * 200),
            ("'<i8'", "'<M8[s]'"),
            ("False", "True"),
            ("False", "None"),
            ("{", ""),
            ("'", '"'),
            ("shape", "shap"),
        )
    )
    text = text.replace(old, new)
    return data[:8] + struct.pack("<H", len(text)) + text.encode("latin1") + data[10 + length :]


def read_input(path: Path) -> None:
    """As `run --inputs` and as `map --inputs` do."""
    specs = INPUTS[:1] if path.suffix == ".npy" else INPUTS
    names = [spec.name for spec in specs]
    batch = BatchAxes(inputs=dict.fromkeys(names, 0), outputs={"y": 0}, rows=None)
    rows = open_rows(path, specs, batch)
    try:
        rows.read(0, min(rows.num_rows, 3))
    finally:
        rows.close()
    if path.suffix != ".parquet":
        read_arrays(path, specs)


@cache
def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table({"x": pa.array([[1.0, 2.0, 3.0]] * 5, pa.list_(pa.float32())), "n": pa.array(range(5))})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


# YAML

_CLUSTER = """\
machines:
  - {name: here, cpus: [0]}
  - name: server
    count: 8
    cores: 32
    memory: 256G
    rates: {memory_bytes_per_s: 1.5e11, fp32_flops_per_s: 1.5e12, int8_flops_per_s: 3e12}
link: {latency_s: 1e-4, bytes_per_s: 1.25e9}
links:
  - {between: [here, server], latency_s: 1e-3, bytes_per_s: 1.25e7, back_bytes_per_s: 2.5e6}
"""
_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
)


_YAML_PIECES = (_BOMB, "x: !!python/object/apply:os.system [ls]\n", "? [a]\n: b\n", "? {}\n: b\n", "<<: [1]\n")


def change_yaml(name: str) -> Callable[[Files, random.Random], None]:
    """What the file says, or its text."""

    def change(files: Files, source: random.Random) -> None:
        text = files[name]
        match source.randrange(12):
            case 0 | 1 | 2:
                files[name] = mutate([text], source)
            case 3:
                files[name] = text + source.choice(_YAML_PIECES).encode()
            case 4:
                files[name] = b"[" * _DEPTH + b"]" * _DEPTH
            case 5:
                files[name] = text.replace(
                    b"8", source.choice((b"1e999", b".nan", b"2001-02-30", b"0o9", b"1:2:3" * 50))
                )
            case _:
                files[name] = yaml.safe_dump(mutate_tree(yaml.safe_load(text), source)).encode()

    return change


def read_plan_file(path: Path) -> None:
    """As `--plan` does."""
    read_plan(path.read_text(errors="surrogateescape"), path.name)


def read_cluster_file(path: Path) -> None:
    """As `--cluster` does."""
    parse_cluster_file(path.read_text(errors="surrogateescape"), path.name).links_between()


_FAULTS = """\
faults:
  - {at_s: 60, machine: server-3, kind: cable}
  - {at_s: 80, replica: 0, worker: 1, kind: hang}
  - {at_s: 900, machine: server-3, kind: return}
"""
_TRACE = b"at_s,prompt_tokens,output_tokens\n0.5,10,2\n1.25,8,1\n1.5,3000,12\n"


def read_faults(path: Path) -> None:
    """As `shoal simulate --faults` does."""
    parse_fault_file(path.read_text(errors="surrogateescape"), path.name)


def read_traffic(path: Path) -> None:
    """As `shoal simulate --traffic` does."""
    for number, visit in enumerate(read_trace(path)):
        if visit.prompt_tokens < _DEPTH:
            visit.request(number)


FORMATS: dict[str, Format] = {
    "gguf": Format(
        good=lambda: {"model.gguf": _gguf("F32")},
        change=either(change_gguf, change_bytes("model.gguf"), share=0.8),
        read=read_language_model,
    ),
    "hugging-face": Format(
        good=lambda: dict(_folder()), change=change_folder, read=read_language_model, is_folder=True
    ),
    "quantized": Format(good=lambda: dict(_coded_folder("awq")), change=change_coded, read=read_coded, is_folder=True),
    "template": Format(good=lambda: {"template.jinja": CHAT_TEMPLATE.encode()}, change=change_template, read=render),
    "onnx": Format(
        good=lambda: {"model.onnx": _onnx(), "w.data": bytes(16)},
        change=either(change_graph, change_bytes("model.onnx"), share=0.8),
        read=read_graph,
    ),
    "npz": Format(good=lambda: {"in.npz": _npz(_ARRAYS)}, change=change_npz, read=read_input),
    "npy": Format(good=lambda: {"in.npy": _npy(_ARRAYS["x"])}, change=change_npy, read=read_input),
    "parquet": Format(good=lambda: {"in.parquet": _parquet()}, change=change_bytes("in.parquet"), read=read_input),
    "plan": Format(
        good=lambda: {"plan.yaml": write_plan(make_plan()).encode()},
        change=change_yaml("plan.yaml"),
        read=read_plan_file,
    ),
    "cluster": Format(
        good=lambda: {"machines.yaml": _CLUSTER.encode()}, change=change_yaml("machines.yaml"), read=read_cluster_file
    ),
    "faults": Format(
        good=lambda: {"faults.yaml": _FAULTS.encode()}, change=change_yaml("faults.yaml"), read=read_faults
    ),
    "trace": Format(good=lambda: {"trace.csv": _TRACE}, change=change_bytes("trace.csv"), read=read_traffic),
}
