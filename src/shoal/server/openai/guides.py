"""From the required format of an output to the guides that enforce it."""

from __future__ import annotations

from shoal.generation.data_plane import DataPlane
from shoal.generation.seams import Guide
from shoal.server.openai.body.constraints import NamedConstraint


async def named_guides(named: NamedConstraint | None, num_choices: int, data_plane: DataPlane) -> tuple[Guide, ...]:
    """One guide for each choice of one prompt; empty if the output is free. Raises as `DataPlane.guides`."""
    if named is None:
        return ()
    return await data_plane.prompts.guides(named.constraint, num_choices, named.field)
