"""A chain in service: what its calls hold while they wait."""

from __future__ import annotations

import asyncio
import io
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from PIL import Image

from shoal.chains.definition import parse_chain
from shoal.core.batching.config import BatchingConfig
from shoal.errors import InvalidRequest, RequestError
from shoal.inference.repository import ModelRepository
from shoal.inference.served_chain import ServedChain
from shoal.inference.value_room import Holding, ValueRoom
from tests.server.oip.fakes import FakeLoader


class CountedRoom(ValueRoom):
    """Notes what was asked for."""

    def __init__(self, total_bytes: int) -> None:
        super().__init__(total_bytes)
        self.asked: list[int] = []

    def held(self, num_bytes: int) -> AbstractAsyncContextManager[Holding]:
        self.asked.append(num_bytes)
        return super().held(num_bytes)


def picture(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "png")
    return file.getvalue()


def test_pictures_are_decoded_where_there_is_room_for_their_pixels(tmp_path: Path) -> None:
    """Room for one at a time; what cannot be decoded gives its room back."""
    (tmp_path / "steps.py").write_text("def size(image): return list(image.shape)")
    steps = [{"call": "steps.py:size", "inputs": ["image"], "outputs": ["size"]}]
    data = {"name": "sizes", "inputs": {"image": "image"}, "steps": steps, "outputs": ["size"]}
    room = CountedRoom(300 * 200 * 3)

    async def run() -> list[object]:
        repository = ModelRepository(dict, FakeLoader({}), lambda file: BatchingConfig())
        served = ServedChain(parse_chain(data, tmp_path / "chain.yaml"), repository, room=room)
        try:
            with pytest.raises(InvalidRequest, match="cannot be read"):
                await served.infer({"image": picture(300, 200)[:-40]})
            calls = [served.infer({"image": picture(300, 200)}) for _ in range(3)]
            return [one["size"] for one in await asyncio.gather(*calls)]
        finally:
            await asyncio.to_thread(served.close)

    assert asyncio.run(run()) == [[200, 300, 3]] * 3
    assert room.asked == [300 * 200 * 3] * 4


def test_values_of_all_steps_of_a_request_are_counted_together(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text("def first(x): return b'x' * 600_000\ndef second(one): return one")
    steps = [
        {"name": "a", "call": "steps.py:first", "inputs": ["x"], "outputs": ["one"]},
        {"name": "b", "call": "steps.py:second", "inputs": ["one"], "outputs": ["two"]},
    ]
    data = {"name": "more", "inputs": {"x": "text"}, "steps": steps, "outputs": ["two"], "value_mib": 1}

    async def run() -> None:
        repository = ModelRepository(dict, FakeLoader({}), lambda file: BatchingConfig())
        served = ServedChain(parse_chain(data, tmp_path / "chain.yaml"), repository)
        try:
            with pytest.raises(RequestError, match="step 'b': the values of this request take more than 1 MiB"):
                await served.infer({"x": "a"})
        finally:
            await asyncio.to_thread(served.close)

    asyncio.run(run())
