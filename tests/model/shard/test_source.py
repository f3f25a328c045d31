"""The shards of a model: together they are the whole, each by itself is a smaller model."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.model.attention.kv_storage import kv_bytes_per_token
from shoal.model.decoder.blocks import decoder_blocks
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.open_weights import open_weights
from shoal.model.formats.quantization import dequantize
from shoal.model.layer_config.attention import RopeConfig
from shoal.model.shard.atoms import shard_atoms, whole_part
from shoal.model.shard.source import ShardSource
from shoal.model.weights import BLOCK, WeightSource
from shoal.protocol.stage_config import ShardPart
from tests.model.tiny_models import FAMILIES, make_tiny_gguf, make_tiny_model

PRECISIONS = ("auto", "fp32", "int8", "int4")
BY_ROWS = ("embedding", "head", *(f"layers.1.{name}" for name in ("q", "k", "v", "gate", "up")))
BY_COLUMNS = ("layers.1.o", "layers.1.down")
UNEQUAL = (
    ShardPart(kv_heads=(0, 2), columns=(0, 32), vocabulary=(0, 160)),
    ShardPart(kv_heads=(2, 2), columns=(32, 128), vocabulary=(160, 288)),
    ShardPart(kv_heads=(2, 2), columns=(128, 128), vocabulary=(288, 320)),
)
"""all heads on the first shard, none on the others, no columns on the last"""
EQUAL = (
    ShardPart(kv_heads=(0, 1), columns=(0, 64), vocabulary=(0, 96)),
    ShardPart(kv_heads=(1, 2), columns=(64, 128), vocabulary=(96, 320)),
)


def example_config(**changes) -> DecoderConfig:
    sizes = {
        "num_layers": 2,
        "hidden_size": 96,
        "num_heads": 6,
        "num_kv_heads": 3,
        "head_dim": 16,
        "intermediate_size": 100,
        "vocab_size": 1000,
        "max_context": 64,
    }
    rope = RopeConfig(theta=1e4, rotary_dim=16)
    return DecoderConfig(family="llama", norm_epsilon=1e-5, rope=rope, attention_scale=0.25, **(sizes | changes))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=["Q4_0", "Q4_1", "Q8_0", "Q5_0", "F16"])
def gguf_source(request: pytest.FixtureRequest, directory: Path) -> WeightSource:
    return open_weights(make_tiny_gguf(directory, quant=request.param))


@pytest.fixture(scope="module", params=FAMILIES)
def family_source(request: pytest.FixtureRequest, directory: Path) -> WeightSource:
    return open_weights(make_tiny_model(request.param, directory / request.param))


def check_together(source: WeightSource, parts: tuple[ShardPart, ...]) -> None:
    """Every matrix, put together from the shards' parts, is the whole one; every product is the sum of theirs."""
    shards = [ShardSource(source, part) for part in parts]
    for precision in PRECISIONS:
        for names, axis in ((BY_ROWS, 0), (BY_COLUMNS, 1)):
            for name in names:
                own = [shard.matrix(name, precision) for shard in shards]
                whole = source.matrix(name, precision)
                assert {type(weight) for weight in own} == {type(whole)}
                together = np.concatenate([dequantize(weight) for weight in own], axis=axis)
                np.testing.assert_array_equal(together, dequantize(whole))
                assert [shard.matrix_bytes(name, precision) for shard in shards] == [one.num_bytes for one in own]
                assert sum(weight.num_bytes for weight in own) == whole.num_bytes


def check_like_a_model(shard: ShardSource) -> None:
    """The shapes are those that its own configuration asks for."""
    config = shard.config
    heads, kv_heads, hidden = config.num_heads * 16, config.num_kv_heads * 16, config.hidden_size
    shapes = {
        "layers.0.q": (heads, hidden),
        "layers.0.k": (kv_heads, hidden),
        "layers.0.v": (kv_heads, hidden),
        "layers.0.o": (hidden, heads),
        "layers.0.gate": (config.intermediate_size, hidden),
        "layers.0.up": (config.intermediate_size, hidden),
        "layers.0.down": (hidden, config.intermediate_size),
        "embedding": (config.vocab_size, hidden),
        "head": (config.vocab_size, hidden),
    }
    for name, shape in shapes.items():
        assert shard.matrix(name, "auto").shape == shape
    if config.qkv_bias:
        assert shard.vector("layers.0.q_bias").shape == (heads,)
        assert shard.vector("layers.0.v_bias").shape == (kv_heads,)


@pytest.mark.parametrize("parts", [EQUAL, UNEQUAL])
def test_shards_of_a_gguf_file_are_the_whole(gguf_source: WeightSource, parts: tuple[ShardPart, ...]) -> None:
    check_together(gguf_source, parts)


@pytest.mark.parametrize("parts", [EQUAL, UNEQUAL])
def test_shards_of_every_family_are_the_whole(family_source: WeightSource, parts: tuple[ShardPart, ...]) -> None:
    check_together(family_source, parts)
    for part in parts:
        check_like_a_model(ShardSource(family_source, part))


def test_vectors(family_source: WeightSource) -> None:
    """Biases are cut with the rows they belong to, norms are whole."""
    shards = [ShardSource(family_source, part) for part in EQUAL]
    config = family_source.config
    for name in ["q_bias", "k_bias", "v_bias"] * config.qkv_bias:
        together = np.concatenate([shard.vector(f"layers.1.{name}") for shard in shards])
        np.testing.assert_array_equal(together, family_source.vector(f"layers.1.{name}"))
        part = shards[1].vector(f"layers.1.{name}", span=(8, 16))
        np.testing.assert_array_equal(part, shards[1].vector(f"layers.1.{name}")[8:16])
    norms = ["final_norm", "layers.1.attn_norm", "layers.1.mlp_norm"]
    norms += ["layers.1.q_norm", "layers.1.k_norm"] * config.qk_norm
    norms += ["layers.1.post_attn_norm", "layers.1.post_mlp_norm"] * config.post_norms
    for name in norms:
        np.testing.assert_array_equal(shards[1].vector(name), family_source.vector(name))


def test_the_configuration_is_that_of_a_smaller_model(gguf_source: WeightSource) -> None:
    shard = ShardSource(gguf_source, EQUAL[1])
    own = shard.config
    assert (own.num_heads, own.num_kv_heads, own.head_dim, own.hidden_size) == (2, 1, 16, 64)
    assert (own.intermediate_size, own.vocab_size) == (64, 224)
    assert (shard.part, shard.whole_config) == (EQUAL[1], gguf_source.config)
    without = ShardSource(gguf_source, UNEQUAL[1])
    assert (without.config.num_heads, without.config.num_kv_heads) == (0, 0)
    assert kv_bytes_per_token(without.config, 4) == 0


def test_planner_blocks_of_shards_add_up(gguf_source: WeightSource) -> None:
    whole = decoder_blocks(gguf_source, "auto")
    shards = [decoder_blocks(ShardSource(gguf_source, part), "auto") for part in EQUAL]
    for block, *own in zip(whole, *shards, strict=True):
        assert sum(one.weight_bytes for one in own) == block.weight_bytes
        assert sum(one.kv_bytes_per_token for one in own) == block.kv_bytes_per_token
        assert sum(one.flops_per_token for one in own) == block.flops_per_token


def test_a_part_of_a_part(gguf_source: WeightSource) -> None:
    """Ranges count within the shard's own rows and columns."""
    shard = ShardSource(gguf_source, EQUAL[1])
    own = dequantize(shard.matrix("layers.0.down", "auto"))
    part = shard.matrix("layers.0.down", "auto", rows=(3, 20), columns=(32, 64))
    np.testing.assert_array_equal(dequantize(part), own[3:20, 32:64])
    assert shard.matrix_bytes("layers.0.down", "auto", rows=(3, 20), columns=(32, 64)) == part.num_bytes
    with pytest.raises(ValueError, match="not within the shard's 64"):
        shard.matrix("layers.0.down", "auto", columns=(32, 96))


def test_the_whole_part_changes_nothing(gguf_source: WeightSource) -> None:
    shard = ShardSource(gguf_source, whole_part(gguf_source.config))
    assert shard.config == gguf_source.config
    np.testing.assert_array_equal(
        dequantize(shard.matrix("layers.2.q", "int4")), dequantize(gguf_source.matrix("layers.2.q", "int4"))
    )


def test_a_part_that_the_model_does_not_have(gguf_source: WeightSource) -> None:
    with pytest.raises(ValueError, match=r"kv_heads \[1, 3\) .* the model's 2"):
        ShardSource(gguf_source, ShardPart(kv_heads=(1, 3), columns=(0, 128), vocabulary=(0, 320)))
    with pytest.raises(ValueError, match=r"vocabulary \[0, 321\)"):
        ShardSource(gguf_source, ShardPart(kv_heads=(0, 2), columns=(0, 128), vocabulary=(0, 321)))


@given(
    st.integers(1, 16), st.integers(1, 12), st.sampled_from([8, 16, 24, 32, 64, 80, 96, 128, 256]), st.integers(1, 9999)
)
def test_attention_is_cut_only_where_its_output_matrix_can_be(num_kv_heads, group, head_dim, intermediate_size):
    config = example_config(
        num_heads=num_kv_heads * group,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
    )
    atoms = shard_atoms(config)
    columns = config.num_heads * head_dim
    atom_columns = atoms.kv_heads_per_atom * group * head_dim
    if columns % BLOCK == 0:
        assert atom_columns % BLOCK == 0
        assert num_kv_heads % atoms.kv_heads_per_atom == 0
        assert atoms.kv_heads_per_atom == 1 or atom_columns // atoms.kv_heads_per_atom % BLOCK
    else:
        assert atoms.kv_heads_per_atom == 1
    assert (atoms.intermediate_size, atoms.column_atom) == (intermediate_size, BLOCK)


def test_atoms_of_small_heads():
    assert shard_atoms(example_config()).kv_heads_per_atom == 1
    assert shard_atoms(example_config(num_heads=4, num_kv_heads=4)).kv_heads_per_atom == 2
    assert shard_atoms(example_config(num_heads=8, num_kv_heads=8, head_dim=8)).kv_heads_per_atom == 4
    assert shard_atoms(example_config(num_heads=3, num_kv_heads=3, head_dim=8)).kv_heads_per_atom == 1
