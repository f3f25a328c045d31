"""What the environment forces on stages: the ONNX form, or an instruction set for the native form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shoal.errors import ConfigError
from shoal.model.attention.paged_attention import native_available
from shoal.protocol.device_config import DeviceConfig

NATIVE = "SHOAL_NATIVE"
"""0: the ONNX form, which needs no compiler; 1: the native form, or an error; empty: the native form if it was
built."""
ISA = "SHOAL_ISA"
"""Name of the instruction set that the native form uses; empty: the best one of the processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedForm:
    """How a stage must be computed, instead of in the best way that this process has."""

    native: bool | None = None
    """None: the native layers if the extension is installed; False: the ONNX form."""
    isa: str = ""
    """One of the processor's instruction sets; empty: the best one."""
    device: DeviceConfig | None = None
    """A device that computes instead of the processor, with the ONNX form."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> ForcedForm:
        """What the environment of a process forces.

        Raises:
            ConfigError: a variable has an invalid value, or asks for something that this machine does not have.
        """
        native = _native(environment.get(NATIVE, ""))
        isa = environment.get(ISA, "") if native is not False else ""
        if isa:
            _check_isa(isa)
        return cls(native=native, isa=isa)

    @property
    def is_native(self) -> bool:
        """Whether the native extension computes the stage."""
        return native_available() if self.native is None else self.native


def forced_form(environment: Mapping[str, str]) -> str:
    """The forced form as text, or empty. Speeds that were measured with it hold for nothing else."""
    return "".join(f", {name}={environment[name]}" for name in (NATIVE, ISA) if environment.get(name))


def _native(value: str) -> bool | None:
    if value not in ("", "0", "1"):
        raise ConfigError(f"{NATIVE}={value}: give 0 for the ONNX form of a decoder or 1 for the native one")
    if value == "1" and not native_available():
        raise ConfigError(f"{NATIVE}=1: the native extension was not built here; unset the variable to do without it")
    return None if value == "" else value == "1"


def _check_isa(isa: str) -> None:
    if not native_available():
        raise ConfigError(f"{ISA}={isa}: the native extension was not built here; unset the variable to do without it")
    from shoal._native import supported_isas

    known = supported_isas()
    if isa not in known:
        raise ConfigError(f"{ISA}={isa}: this processor has {', '.join(known)}")
