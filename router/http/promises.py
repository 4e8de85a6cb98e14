"""What the models of bodies cannot promise by themselves: the served catalog's own names, sizes and ids."""

from __future__ import annotations

from typing import Any

from silverray.router.http.item_schemas import MAX_ITEMS
from silverray.router.router import Router
from silverray.shard.api import MAX_K
from silverray.shard.schema.keys import MAX_ID_BYTES

_SHOWN = 8
"""Fields in the documentation's example: a reader takes in a line or two, and a catalog may have hundreds."""
_FIELD_TYPES: dict[str, dict[str, Any]] = {
    "category": {"type": "string"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "int": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
}
_EXAMPLES: dict[str, Any] = {
    "category": "text",
    "tags": ["text"],
    "int": 1,
    "float": 0.5,
    "bool": True,
    "date": "2001-05-31",
}
_FILTERS = {
    "category": '{} != "text"',
    "tags": '{} any ("text")',
    "int": "{} >= 1",
    "float": "{} >= 0.5",
    "bool": "not {}",
    "date": '{} >= date("2001-05-31")',
}


class Promises:
    """Narrows the schemas of an OpenAPI document to what a router takes, and makes bodies that it takes as they are.

    Args:
        router: what serves.
    """

    def __init__(self, router: Router) -> None:
        self._settings = router.settings
        self._catalog = router.catalog
        self._encodes = router.encodes
        self._fields: dict[str, dict[str, Any]] = router.catalog.schema.model_dump(mode="json")["fields"]
        text = {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES}
        number = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
        self._id = text if self._catalog.id_type == "string" else number

    def narrow(self, schemas: dict[str, Any]) -> None:
        """Write them into the schemas of a document, by name."""
        for name in ("SearchBody", "QueryBody", "RankBody"):
            self._narrow_query(schemas[name])
        ids = schemas["RankBody"]["properties"]["ids"]
        ids |= {"items": self._id, "minItems": 1, "maxItems": MAX_K}
        schemas["BatchBody"]["properties"]["queries"]["maxItems"] = self._settings.max_queries
        self._narrow_writes(schemas)

    def search(self) -> dict[str, Any]:
        """A search that is answered as it stands."""
        told = [name for name, field in self._fields.items() if field.get("payload", True)]
        body: dict[str, Any] = {"vector": self._vector(), "k": 10, "fields": told[:_SHOWN]}
        if filterable := [name for name, field in self._fields.items() if field.get("filter", True)]:
            body["filter"] = _FILTERS[self._fields[filterable[0]]["type"]].format(filterable[0])
        if len(self._catalog.tasks) > 1:
            body["vectors"] = [body.pop("vector")] * len(self._catalog.tasks)
        return body

    def rank(self) -> dict[str, Any]:
        """A ranking that is answered as it stands."""
        query = {name: value for name, value in self.search().items() if name in ("vector", "vectors", "fields")}
        return query | {"ids": [self._key()]}

    def write(self) -> dict[str, Any]:
        """A write that is taken as it stands."""
        fields = {name: _EXAMPLES[field["type"]] for name, field in self._fields.items()}
        return {"upsert": [{"id": self._key(), "vector": self._vector(), "fields": fields}], "wait": False}

    def _narrow_query(self, schema: dict[str, Any]) -> None:
        dimension, tasks = self._catalog.dimension, len(self._catalog.tasks)
        vector = {"type": "array", "items": {"type": "number"}, "minItems": dimension, "maxItems": dimension}
        kinds: dict[str, dict[str, Any]] = {
            "vector": vector,
            "vectors": {"type": "array", "items": vector, "minItems": tasks, "maxItems": tasks},
        }
        if tasks > 1:
            del kinds["vector"]
        if self._encodes:
            kinds["user"] = {"type": "object"}
        properties = schema["properties"]
        for name in ("vector", "vectors", "user"):
            kind = kinds.get(name)
            properties[name] |= {"anyOf": [kind, {"type": "null"}]} if kind else {"anyOf": [{"type": "null"}]}
        # Null stands for what is left out, so that it is not enough that a key is there.
        schema["oneOf"] = [
            {"required": [name], "properties": {name: {"type": kind["type"]}}} for name, kind in kinds.items()
        ]
        told = [name for name, field in self._fields.items() if field.get("payload", True)]
        properties["fields"]["items"] = {"type": "string", "enum": told} if told else {"type": "string"}
        if not told:
            properties["fields"]["maxItems"] = 0
        properties["deadline_ms"]["description"] += f" At most {self._settings.max_deadline_s * 1e3:,.0f}."

    def _narrow_writes(self, schemas: dict[str, Any]) -> None:
        body = schemas["ItemsBody"]
        for name in ("upsert", "delete", "patch"):
            body["properties"][name]["maxItems"] = MAX_ITEMS
        body["properties"]["delete"]["items"] = self._id
        body["anyOf"] = [
            {"required": [name], "properties": {name: {"minItems": 1}}} for name in ("upsert", "delete", "patch")
        ]
        sizes = self._settings.sizes
        values = {}
        for name, field in self._fields.items():
            kind = dict(_FIELD_TYPES[field["type"]])
            if field["type"] == "tags":
                kind["maxItems"] = sizes.max_tags
            if field["type"] == "category":
                kind["maxLength"] = sizes.max_field_bytes
            values[name] = {"anyOf": [kind, {"type": "null"}]} if field.get("nullable") else kind
        needed = [name for name, field in self._fields.items() if not field.get("nullable")]
        fields = {"type": "object", "properties": values, "additionalProperties": False}
        for model, more in (("UpsertItem", {"required": needed}), ("PatchItem", {"minProperties": 1})):
            properties = schemas[model]["properties"]
            properties["id"] = {**self._id, "title": "Id"}
            properties["fields"] |= fields | (more if more.get("required") != [] else {})

    def _vector(self) -> list[float]:
        return [round(self._catalog.dimension**-0.5, 4)] * self._catalog.dimension

    def _key(self) -> int | str:
        return "id" if self._catalog.id_type == "string" else 1
