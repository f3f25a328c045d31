"""Engines over a model with adapters, and what requests for each of them get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoal.bench.generation import FinishedRequest, generate
from shoal.core.sequences.request import NO_ADAPTER, Request, RequestId
from shoal.model.adapter.files import find_adapter
from shoal.model.formats.open_weights import open_weights
from shoal.router.engine import Engine
from tests.numerics.engines import F32, GREEDY, make_engine, make_executor


def adapted_engine(model: Path, adapters: Sequence[Path], *, merged: bool = False, **options: Any) -> Engine:
    """An engine over one replica in this process, whose adapters have their places as numbers."""
    files = [find_adapter(f"adapter-{place}", path, is_merged=merged) for place, path in enumerate(adapters)]
    limits: Mapping[str, Any] = options.pop("limits", {})
    return make_engine(make_executor(open_weights(model), adapters=files, **options), **limits)


def adapted_logits(engine: Engine, texts: Sequence[Sequence[int]], adapters: Sequence[int]) -> list[F32]:
    """Logits [T, V] after every token of every text, computed with its adapter, all texts at once."""
    requests = [
        Request(
            request_id=RequestId(f"text-{place}"),
            prompt_ids=(text[0],),
            targets=(*text[1:], 0),
            max_tokens=len(text),
            sampling=GREEDY,
            want_logits=True,
            adapter=adapter,
        )
        for place, (text, adapter) in enumerate(zip(texts, adapters, strict=True))
    ]
    results = generate(engine, requests, concurrency=len(requests))
    return [np.stack([np.frombuffer(row, "<f4") for row in result.logits]) for result in results]


def answers(
    engine: Engine, prompts: Sequence[Sequence[int]], adapters: Sequence[int], *, max_tokens: int = 24
) -> list[FinishedRequest]:
    """Greedy answers with all logits, all prompts at once."""
    requests = [
        Request(
            request_id=RequestId(f"prompt-{place}"),
            prompt_ids=tuple(prompt),
            max_tokens=max_tokens,
            sampling=GREEDY,
            want_logits=True,
            adapter=adapter,
        )
        for place, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True))
    ]
    return generate(engine, requests, concurrency=len(requests))


BASE = NO_ADAPTER
