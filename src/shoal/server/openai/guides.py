"""From the field of a body that says what an output must look like to what keeps each choice within it."""

from __future__ import annotations

from shoal.generation.data_plane import DataPlane
from shoal.generation.seams import Guide
from shoal.server.openai.schemas import GenerationBody


async def body_guides(body: GenerationBody, data_plane: DataPlane) -> tuple[Guide, ...]:
    """One a choice of one prompt; none where the body leaves the output free. Raises as `DataPlane.guides`."""
    if body.constraint is None:
        return ()
    constraint, field = body.constraint
    return await data_plane.guides(constraint, body.num_choices, field)
