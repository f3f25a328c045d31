"""From what an output must look like to what keeps each choice within it."""

from __future__ import annotations

from shoal.generation.data_plane import DataPlane
from shoal.generation.seams import Guide
from shoal.server.openai.body.constraints import NamedConstraint


async def named_guides(named: NamedConstraint | None, num_choices: int, data_plane: DataPlane) -> tuple[Guide, ...]:
    """One a choice of one prompt; none where the output is free. Raises as `DataPlane.guides`."""
    if named is None:
        return ()
    return await data_plane.prompts.guides(named.constraint, num_choices, named.field)
