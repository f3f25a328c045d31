"""Recurrent layers as data: what they are computed from, the state that they carry, and into what they can be cut.

They stand in the place of attention in some layers of a model. Each kind says which matrices its inputs are products
of, and which its output goes through: the rest of a layer is as everywhere.
"""

from shoal.model.recurrence.delta_net import DeltaNetConfig
from shoal.model.recurrence.mamba import MambaConfig
from shoal.model.recurrence.short_conv import ShortConvConfig

RecurrenceConfig = ShortConvConfig | DeltaNetConfig | MambaConfig
