"""Recurrent layers as data: their inputs, their state, and the pieces into which they can be cut.

They replace attention in some layers of a model. Each kind names the matrices that compute its inputs, and the one that
its output goes through; the rest of a layer is the same as elsewhere.
"""

from shoal.model.recurrence.delta_net import DeltaNetConfig
from shoal.model.recurrence.mamba import MambaConfig
from shoal.model.recurrence.short_conv import ShortConvConfig

RecurrenceConfig = ShortConvConfig | DeltaNetConfig | MambaConfig
