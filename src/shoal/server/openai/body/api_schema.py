"""Objects in a body, each of whose fields is either implemented, refused, or known to change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from shoal.server.openai.body.fields import check_extra, is_strict


class ApiSchema(BaseModel):
    """Base of all of them: fields that are not implemented are refused, see `check_extra`."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    """Fields that are not implemented, with the values that change nothing."""
    harmless: ClassVar[frozenset[str]] = frozenset()
    """Fields that are ignored."""
    prefix: ClassVar[str] = ""
    """Prefix of field names in errors."""

    @model_validator(mode="after")
    def _refuse_unimplemented(self, info: ValidationInfo) -> ApiSchema:
        kind, extra = type(self), self.model_extra or {}
        check_extra(extra, kind.model_fields, kind.neutral, kind.harmless, kind.prefix, strict=is_strict(info))
        return self
