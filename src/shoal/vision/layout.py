"""Where pictures lie in a prompt, and the rotary positions of its rows."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import InvalidRequest
from shoal.model.vision.cut_picture import CutPicture


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLayout:
    """A prompt with rows for the vectors of its pictures."""

    prompt_ids: tuple[int, ...]
    """Tokens with a placeholder for every vector."""
    first_rows: tuple[int, ...]
    """First row of each picture."""


def lay_out(prompt_ids: Sequence[int], placeholder: int, pictures: Sequence[CutPicture]) -> PromptLayout:
    """Expand the prompt's one placeholder for each picture to all of its rows. Raises InvalidRequest if their numbers
    differ."""
    places = [place for place, token in enumerate(prompt_ids) if token == placeholder]
    if len(places) != len(pictures):
        raise InvalidRequest(
            f"the prompt has places for {len(places)} pictures, but there are {len(pictures)}: do not write "
            "the model's own placeholders for pictures in texts",
            param="messages",
        )
    laid: list[int] = []
    first_rows: list[int] = []
    done = 0
    for place, picture in zip(places, pictures, strict=True):
        laid.extend(prompt_ids[done:place])
        first_rows.append(len(laid))
        laid.extend([placeholder] * picture.num_rows)
        done = place + 1
    laid.extend(prompt_ids[done:])
    return PromptLayout(prompt_ids=tuple(laid), first_rows=tuple(first_rows))


def turns_of(layout: PromptLayout, pictures: Sequence[CutPicture]) -> tuple[array[int], int]:
    """The positions in time, height and width by which each row is rotated, and how far the rotary positions of later
    rows are ahead of their own.

    A picture is one moment, and rows after it continue from its longer side. Source: Qwen2-VL, arXiv 2409.12191,
    section 2.1.
    """
    turns = array("i")
    row = turn = 0
    for first_row, picture in zip(layout.first_rows, pictures, strict=True):
        turns.extend(position for position in range(turn, turn + first_row - row) for _ in range(3))
        turn += first_row - row
        for height in range(picture.height):
            for width in range(picture.width):
                turns.extend((turn, turn + height, turn + width))
        turn += max(picture.height, picture.width)
        row = first_row + picture.num_rows
    rest = len(layout.prompt_ids) - row
    turns.extend(position for position in range(turn, turn + rest) for _ in range(3))
    return turns, turn + rest - len(layout.prompt_ids)
