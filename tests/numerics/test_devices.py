"""Decoder stages as a device computes them: against the stages of processors, family by family.

The device's graphs run on ONNX Runtime's processor provider here; tests/launch/language/test_devices.py runs them on
devices. TOLERANCE: of the largest logit, as in families/test_families.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest

from shoal.core.plan.devices.providers import Provider
from shoal.errors import CapacityError, ConfigError, DeviceLost
from shoal.model.attention.interface import AttentionShape
from shoal.model.decoder.device import attention, device_layers, lone_rows, sessions
from shoal.model.decoder.device.attention_graph import gather_graph, lone_row_graph
from shoal.model.decoder.device.padding import padded_count
from shoal.model.decoder.device.sessions import device_floats
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.onnx.graph_builder import GraphForm
from shoal.model.decoder.stage import Stage
from shoal.model.runtime_sessions import start_session
from shoal.model.weights import WeightSource
from shoal.protocol.device_config import DeviceConfig, FloatPrecision
from shoal.protocol.stage_config import ShardPart
from tests.model.dense_families import DENSE_FAMILIES
from tests.numerics.conftest import MakeSource
from tests.numerics.engines import (
    PipelineExecutor,
    continuations,
    make_engine,
    make_executor,
    random_tokens,
    stage_config,
    text_logits,
)

TEXT = random_tokens(70)
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2
NUM_OUTPUT = 64
DEVICE = DeviceConfig(provider="openvino")
FAMILIES = ["llama", "mistral", "gemma2", "gemma3_text", "phi3", "gpt_oss", "qwen3", "qwen3_moe", *DENSE_FAMILIES]


@pytest.fixture(autouse=True)
def _on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Provider, "keeps_values", True)
    monkeypatch.setattr(attention, "computes_lone_rows", lambda device, shape, form: False)
    monkeypatch.setattr(sessions, "start_session", lambda model, options, device: start_session(model, options))
    monkeypatch.setattr(sessions, "check_nodes", lambda session, device: None)
    monkeypatch.setattr(
        device_layers, "device_form", lambda device: GraphForm(exact_activations=True, floats=device_floats(device))
    )


def on_device(source: WeightSource, *, cuts: Sequence[int] = (), device: DeviceConfig = DEVICE) -> PipelineExecutor:
    """Stages that begin at layer 0 and at every one of `cuts`, on processor and device by turns, the device last."""
    bounds = (0, *cuts, source.config.num_layers)
    spans = [replace(stage_config(source), first_layer=first, last_layer=last) for first, last in pairwise(bounds)]
    devices = [device if (len(spans) - index) % 2 else None for index in range(len(spans))]
    forms = [ForcedForm(device=one) for one in devices]
    return PipelineExecutor([Stage(source, span, form=form) for span, form in zip(spans, forms, strict=True)])


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * float(np.abs(want).max()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.sample(every=3)
def test_a_family_says_what_it_says_on_processors(family: str, tiny_source: MakeSource) -> None:
    """In chunks and from cached blocks, several sequences at once."""
    source = tiny_source(family)
    texts = [TEXT, random_tokens(9, seed=1), random_tokens(33, seed=2)]
    processor, device = make_executor(source), on_device(source)
    for got, want in zip(*(text_logits(make_engine(one), texts) for one in (device, processor)), strict=True):
        assert_close(got, want)
    engine = make_engine(device, prefill_chunk_tokens=23)
    answers = continuations(engine, texts, max_tokens=NUM_OUTPUT)
    assert continuations(engine, texts, max_tokens=NUM_OUTPUT) == answers
    assert engine.stats().prefix_hit_tokens >= 48
    assert answers == continuations(make_engine(processor), texts, max_tokens=NUM_OUTPUT)


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "gemma2"])
def test_where_results_come_back_the_processor_attends(
    family: str, tiny_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Provider, "keeps_values", False)
    test_a_family_says_what_it_says_on_processors(family, tiny_source)
    test_pipelines_over_both_compose_to_the_whole((1, 3), tiny_source)


def test_such_a_device_has_room_for_weights_alone(tiny_source: MakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Provider, "keeps_values", False)
    with pytest.raises(CapacityError, match=r"layers 0 to 3 take [0-9,]+; 3 of these 4 layers fit"):
        on_device(tiny_source("llama"), device=replace(DEVICE, memory_bytes=500_000))


def test_rows_are_padded_to_few_counts() -> None:
    assert [padded_count(count) for count in (1, 2, 3, 9, 64, 65, 128, 500)] == [1, 2, 4, 16, 64, 128, 128, 512]
    assert len({padded_count(count) for count in range(1, 2049)}) == 38


@pytest.mark.parametrize(("family", "has_operator"), [("llama", True), ("qwen3", True), ("gpt_oss", False)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_row_that_is_alone_attends_by_one_operator(
    precision: FloatPrecision,
    family: str,
    has_operator: bool,
    tiny_source: MakeSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the provider has it. In 16 bits two tokens that are nearly as likely may change places later on."""
    monkeypatch.setattr(lone_rows, "start_session", lambda model, options, device, needs_device: None)
    monkeypatch.setattr(attention, "computes_lone_rows", lone_rows.computes_lone_rows)
    source, device = tiny_source(family), replace(DEVICE, precision=precision)
    alone = on_device(source, device=device)
    layers = alone.stages[0]._layers._attention._layers  # type: ignore[attr-defined]
    assert [layer.lone_row is not None for layer in layers] == [has_operator] * len(layers)
    count = NUM_OUTPUT if precision == "fp32" else 16
    (got,) = continuations(make_engine(alone), [TEXT], max_tokens=count)
    monkeypatch.setattr(attention, "computes_lone_rows", lambda device, shape, form: False)
    (want,) = continuations(make_engine(on_device(source, device=device)), [TEXT], max_tokens=count)
    assert got == want


def test_an_operator_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lone_rows, "start_session", lambda model, options, device, needs_device: None)
    shape, form = AttentionShape(num_heads=4, num_kv_heads=2, head_dim=16, rotary_dim=16, scale=0.25), GraphForm()
    assert lone_rows.computes_lone_rows.__wrapped__(DEVICE, shape, form)
    assert not lone_rows.computes_lone_rows.__wrapped__(DEVICE, replace(shape, window=8), form)
    wrong = with_another_scale(lone_row_graph(shape, form))
    monkeypatch.setattr(lone_rows, "lone_row_graph", lambda shape, form: wrong)
    assert not lone_rows.computes_lone_rows.__wrapped__(DEVICE, shape, form)


def with_another_scale(model: bytes) -> bytes:
    """The same graph with another scale of its scores."""
    changed = onnx.load_from_string(model)
    (operator,) = (node for node in changed.graph.node if node.op_type == "GroupQueryAttention")
    next(one for one in operator.attribute if one.name == "scale").f = 2.0
    return changed.SerializeToString()


@pytest.mark.parametrize("keeps_values", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "gemma2"])
def test_half_floats_say_nearly_the_same(
    family: str, keeps_values: bool, tiny_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Provider, "keeps_values", keeps_values)
    source = tiny_source(family)
    half = on_device(source, device=replace(DEVICE, precision="fp16"))
    (got,), (want,) = (text_logits(make_engine(one), [TEXT]) for one in (half, make_executor(source)))
    np.testing.assert_allclose(got, want, rtol=0, atol=HALF_TOLERANCE * float(np.abs(want).max()))
    assert np.abs(got - want).max() > 1e-5, "16 bits round"


@pytest.mark.parametrize("cuts", [(2,), (1, 3)])
def test_pipelines_over_both_compose_to_the_whole(cuts: tuple[int, ...], tiny_source: MakeSource) -> None:
    source = tiny_source("llama")
    (want,) = text_logits(make_engine(make_executor(source)), [TEXT])
    (got,) = text_logits(make_engine(on_device(source, cuts=cuts)), [TEXT])
    assert_close(got, want)


def test_a_device_that_is_too_small_says_how_many_layers_it_would_hold(tiny_source: MakeSource) -> None:
    source = tiny_source("llama")
    needed = "layers 0 to 3 take ([0-9,]+) with their KV cache"
    with pytest.raises(CapacityError, match=needed) as nothing:
        on_device(source, device=replace(DEVICE, memory_bytes=1000))
    assert "not even one layer fits" in str(nothing.value)
    with pytest.raises(CapacityError, match=r"2 of these 4 layers fit: --split pp=2:2"):
        on_device(source, device=replace(DEVICE, memory_bytes=2_400_000))


def test_a_device_that_is_full_says_so_too(tiny_source: MakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []

    def fill(model: Any, options: Any, device: Any) -> Any:
        loaded.append(model)
        if len(loaded) > 3:
            raise RuntimeError("CUDA failure 2: out of memory")
        return start_session(model, options)

    monkeypatch.setattr(sessions, "start_session", fill)
    with pytest.raises(CapacityError, match=r"out of memory; 3 of these 4 layers fit: --split pp=3:1"):
        on_device(tiny_source("llama"))


def test_a_device_that_is_lost_ends_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    session = sessions.DeviceSession("gather", gather_graph(2), DEVICE)

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: device lost")

    monkeypatch.setattr(session._session, "run_with_iobinding", fail)
    with pytest.raises(DeviceLost, match="openvino:0 is gone"):
        session.run({"x": np.zeros((1, 2), np.float32), "rows": np.zeros(1, np.int64)})


def test_what_has_no_graph_is_refused(tiny_source: MakeSource) -> None:
    source = tiny_source("llama")
    part = ShardPart(kv_heads=(0, 1), columns=(0, 64), vocabulary=(0, 160))
    with pytest.raises(ConfigError, match="can only compute whole stages: split over devices with pp and dp"):
        Stage(source, replace(stage_config(source), part=part), form=ForcedForm(device=DEVICE))
    with pytest.raises(ConfigError, match="recurrent layers, without an ONNX form: leave --device out"):
        on_device(tiny_source("lfm2"))
