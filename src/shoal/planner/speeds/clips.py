"""The work of a clip of sound in a model with an encoder: the encoder in the first stage, and keys and values of its
outputs in every layer."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.planner.speeds.speeds import ClipSpeed


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipWork:
    """The arithmetic of one clip."""

    encoder_flops: float
    layer_flops: float
    """Floating-point operations of one decoder layer."""
    num_rows: int
    """Rows of the encoder's output."""

    def speed(self, seconds: float, num_layers: int) -> ClipSpeed:
        """The speed of a worker that takes `seconds` for the encoder and so many layers; both are large matrix
        products."""
        flop_s = seconds / (self.encoder_flops + num_layers * self.layer_flops)
        return ClipSpeed(
            encoder_s=flop_s * self.encoder_flops, layer_s=flop_s * self.layer_flops, num_rows=self.num_rows
        )
