"""What all sections of a configuration are made of.

Every field has a one-sentence docstring with its unit, and its range. Sections are frozen and refuse keys
they do not know. A parameter of a search is named by the dotted path of the field it sets
(`model.codebook_size`, `train.lr`), so a rename there breaks users' sweep files.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Generators of random numbers take less than 2**32; a resumed search adds its trials to the seed.
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """A frozen group of fields that refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


def distinct(values: list[Any], what: str) -> list[Any]:
    """`values`, which `what` says the kind of, each once.

    Raises:
        ValueError: one is there twice.
    """
    if len(set(values)) < len(values):
        raise ValueError(f"{values} names {what} twice; keep one")
    return values
