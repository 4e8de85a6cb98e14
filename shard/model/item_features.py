"""Item features: numbers that scorers read, made from the stored columns of the candidates.

Letters: B requests, K candidates, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from silverray.kernels.quotients import quotient
from silverray.shard.schema.columns import Columns
from silverray.shard.schema.mistakes import describe_mistake
from silverray.shard.schema.schema import Schema
from silverray.shard.value.inputs import gather_fields
from silverray.shard.value.operations import LARGEST_FIELD

NUMERIC = ("int", "float", "bool", "date")

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Transformation(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str

    @property
    def width(self) -> int:
        """Numbers that an item gets."""
        return 1


class Standardise(_Transformation):
    """`(value - mean) / deviation`."""

    transform: Literal["standardise"] = "standardise"
    mean: Finite
    deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def apply(self, values: Tensor) -> Tensor:
        """`[B, K]` float64 to `[B, K, width]`."""
        return quotient(values - self.mean, self.deviation)[..., None]


class Log1p(_Transformation):
    """`sign(value) * log(1 + |value|)`, divided by `scale`: for counts."""

    transform: Literal["log1p"] = "log1p"
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def apply(self, values: Tensor) -> Tensor:
        """`[B, K]` float64 to `[B, K, width]`."""
        return quotient(values.sign() * values.abs().log1p(), self.scale)[..., None]


class Buckets(_Transformation):
    """One number for each bucket, 1 for the one that the value falls in; a boundary belongs to the bucket above it."""

    transform: Literal["buckets"] = "buckets"
    boundaries: Annotated[tuple[Finite, ...], Field(min_length=1)]

    @property
    def width(self) -> int:
        """Numbers that an item gets."""
        return len(self.boundaries) + 1

    def apply(self, values: Tensor) -> Tensor:
        """`[B, K]` float64 to `[B, K, width]`."""
        boundaries = torch.tensor(self.boundaries, dtype=values.dtype, device=values.device)
        return torch.nn.functional.one_hot(torch.bucketize(values, boundaries, right=True), self.width)


Transformation = Annotated[Standardise | Log1p | Buckets, Field(discriminator="transform")]
_TRANSFORMATIONS: TypeAdapter[list[Standardise | Log1p | Buckets]] = TypeAdapter(list[Transformation])


class ItemFeatures(nn.Module):
    """Makes the features of candidates; where an item has no value, all numbers of that field are 0.

    Numbers beyond `LARGEST_FIELD` count as that, as in formulas: scorers make nothing of an infinite one.

    Args:
        transformations: what is made of which field, in order.
    """

    def __init__(self, transformations: Sequence[Standardise | Log1p | Buckets] = ()) -> None:
        super().__init__()
        self.transformations = tuple(transformations)

    @classmethod
    def of(cls, document: object) -> ItemFeatures:
        """Read what `to_document` gave.

        Raises:
            ValueError: it is malformed.
        """
        try:
            return cls(_TRANSFORMATIONS.validate_python(document))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place, inner = "".join(f"[{part}]" for part in first["loc"][:1]), first["loc"][1:]
            raise ValueError(describe_mistake({**first, "loc": (f"item_features{place}", *inner)})) from None

    def check(self, schema: Schema) -> ItemFeatures:
        """Make sure that a schema has the fields.

        Returns:
            These features.

        Raises:
            ValueError: a field is none that shards keep as a number.
        """
        for place, transformation in enumerate(self.transformations):
            field = schema.filterable.get(transformation.field)
            if field is None or field.type not in NUMERIC:
                known = [name for name, spec in schema.filterable.items() if spec.type in NUMERIC]
                raise ValueError(
                    f"item_features[{place}].field: expected one of {', '.join(known) or 'no field'},"
                    f" got {transformation.field!r}"
                )
        return self

    def to_document(self) -> list[dict[str, Any]]:
        """The features as JSON values."""
        return [transformation.model_dump(mode="json") for transformation in self.transformations]

    @property
    def width(self) -> int:
        """F."""
        return sum(transformation.width for transformation in self.transformations)

    def forward(self, columns: Columns, slots: Tensor) -> Tensor:
        """Make features.

        Args:
            columns: stored values of the items.
            slots: `[B, K]` int64, 0 or more.

        Returns:
            `[B, K, F]` float32.
        """
        named = dict.fromkeys(transformation.field for transformation in self.transformations)
        fields = gather_fields(columns, slots, named)
        values = {name: (its.values.double(), its.present) for name, its in fields.items()}
        return self.of_values(values, slots)

    def of_values(self, values: Mapping[str, tuple[Tensor, Tensor | None]], slots: Tensor) -> Tensor:
        """Features of items from the values of their fields.

        Args:
            values: by field `[B, K]` float64, and `[B, K]` bool, false where the value is missing (None: nowhere).
            slots: `[B, K]`, for their shape and device.

        Returns:
            `[B, K, F]` float32.
        """
        parts = [torch.zeros(*slots.shape, 0, device=slots.device)]
        for transformation in self.transformations:
            given, present = values[transformation.field]
            made = transformation.apply(given).float().clamp(-LARGEST_FIELD, LARGEST_FIELD)
            parts.append(made if present is None else torch.where(present[..., None], made, 0.0))
        return torch.cat(parts, dim=2)
