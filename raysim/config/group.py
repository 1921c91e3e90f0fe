"""What the groups of the configuration are made of: frozen groups of keys, and components named by one of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from raysim.config.method_text import parse_method

LARGEST = 2**31 - 1
"""The largest whole number of a key that counts something."""

Whole = Annotated[int, Field(le=LARGEST)]


class Group(BaseModel):
    """A group of keys: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """YAML reads `yes` and `on` as true, which would pass for 1."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("must not be a boolean")
        return value


class Component(Group):
    """A name and the named thing's own options."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(description="a registered name, or an import path `package.module:Thing`")

    @property
    def options(self) -> dict[str, object]:
        """The component's own options."""
        return dict(self.model_extra or {})


def named(value: object) -> object:
    """`krum` is short for `{name: krum}`, `krum,num_byzantine=3` for a name with options; `none` for nothing."""
    if isinstance(value, str):
        return None if value.lower() == "none" else parse_method("name", value)
    return value
