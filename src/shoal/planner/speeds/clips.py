"""What a clip of sound takes of a model with an encoder: the encoder, where the embedding is, and keys and values of
what it gave, in every layer."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.planner.speeds.speeds import ClipSpeed


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipWork:
    """Arithmetic of one clip."""

    encoder_flops: float
    layer_flops: float
    """of one layer of the decoder"""
    num_rows: int
    """that the encoder gives"""

    def speed(self, seconds: float, num_layers: int) -> ClipSpeed:
        """Of a worker that takes so long for the encoder and so many layers; both are large products of matrices."""
        flop_s = seconds / (self.encoder_flops + num_layers * self.layer_flops)
        return ClipSpeed(
            encoder_s=flop_s * self.encoder_flops, layer_s=flop_s * self.layer_flops, num_rows=self.num_rows
        )
