"""Scores of how well texts answer each other, with any kind of encoder."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.embeddings.encoder import Encoded, TextEncoder, no_instruction
from shoal.model.encoder.pooling import normalized


async def scores_of(
    encoder: TextEncoder, pairs: Sequence[tuple[str, str]], timeout_s: float | None = None, instruction: str = ""
) -> Encoded:
    """Scores [N] of pairs: those of a model that compares, otherwise cosines of vectors. Raises: as
    `TextEncoder.compare`."""
    if encoder.compares:
        return await encoder.compare(pairs, instruction=instruction, timeout_s=timeout_s)
    if instruction:
        raise no_instruction()
    firsts = list(dict.fromkeys(first for first, _ in pairs))
    queries = await encoder.embed(firsts, kind="query", cuts=True, timeout_s=timeout_s)
    seconds = [second for _, second in pairs]
    documents = await encoder.embed(seconds, kind="document", cuts=True, timeout_s=timeout_s)
    places = {first: place for place, first in enumerate(firsts)}
    queries_NH = normalized(queries.values)[[places[first] for first, _ in pairs]]
    cosines_N = (queries_NH * normalized(documents.values)).sum(-1)
    return Encoded(values=cosines_N, num_tokens=queries.num_tokens + documents.num_tokens)
