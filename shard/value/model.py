"""The value model: one score from the predictions of all tasks, compiled from a formula.

Letters: B requests, K candidates, T tasks, G tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from silverray.shard.value.binder import bind
from silverray.shard.value.document import from_document, to_document
from silverray.shard.value.graph import Node
from silverray.shard.value.inputs import Values
from silverray.shard.value.language import parse
from silverray.shard.value.program import Program
from silverray.shard.value.scope import Scope
from silverray.shard.value.syntax import to_text


class ValueModel(nn.Module):
    """A formula over predictions, item fields and requests, as one tensor program.

    Constants are computed and equal parts are found when it is made. Scores are finite whatever comes in;
    `docs/value.md` says what each operation makes of arguments for which mathematics has no answer. It compiles with
    `torch.compile(fullgraph=True)` and exports with `torch.export`. There are no gradients.

    Args:
        formula: its text, or its JSON form (see `silverray.shard.value.document`).
        scope: what it may name.

    Attributes:
        text: the formula as text.
        document: the formula as JSON values.
        fields: names of the item fields that it needs.
        inputs: full names of what it needs of requests, such as `user.age`.

    Raises:
        FormulaError: the formula is wrong.

    Example:
        >>> from silverray.shard.schema.schema import Schema
        >>> schema = Schema.parse("{id: film, vector: {dimension: 8, metric: ip}, fields: {year: {type: int}}}")
        >>> model = ValueModel("click + 2 * like * (year >= 2000)", Scope(("click", "like"), schema))
        >>> predictions = torch.tensor([[[0.5, 0.25], [0.5, 0.25]]])
        >>> model(predictions, {"year": Values(torch.tensor([[1999, 2000]]))}, {})
        tensor([[0.5000, 1.0000]])
    """

    def __init__(self, formula: str | Mapping[str, Any], scope: Scope) -> None:
        super().__init__()
        tree = parse(formula) if isinstance(formula, str) else from_document(formula)
        self.text = to_text(tree)
        self.document = to_document(tree)
        self.tasks = len(scope.tasks)
        self._program = Program.of(bind(tree, scope))
        named = list(dict.fromkeys(node.content for node in self._sources("values", "present")))
        self.fields = tuple(key.removeprefix("item.") for key in named if key.startswith("item."))
        self.inputs = tuple(key for key in named if not key.startswith("item."))
        for node in self._sources("table"):
            self.register_buffer(f"table{node.number}", torch.tensor(node.content, dtype=node.dtype), persistent=False)

    def forward(self, predictions: Tensor, fields: Mapping[str, Values], inputs: Mapping[str, Values]) -> Tensor:
        """Score candidates.

        Args:
            predictions: `[B, K, T]` float32, in the order of the scope's tasks. NaN counts as 0.
            fields: at least `self.fields` of the candidates, by name: `[B, K]`, for tags `[B, K, G]`.
            inputs: at least `self.inputs` of the requests, by full name: `[B]`.

        Returns:
            `[B, K]` float32, finite; a score does not depend on the other requests and candidates.

        Raises:
            ValueError: a wrong dtype or shape, or a field is absent.
        """
        if predictions.dim() != 3 or predictions.shape[2] != self.tasks or predictions.dtype != torch.float32:
            got = f"{list(predictions.shape)} {predictions.dtype}"
            raise ValueError(f"predictions: expected [B, K, {self.tasks}] float32, got {got}")
        with torch.no_grad():
            sources = [self._source(node, predictions, fields, inputs) for node in self._program.sources]
            scores: Tensor | float = self._program.run(sources)
            if isinstance(scores, Tensor) and scores.shape == predictions.shape[:2]:
                return scores
            return predictions.new_zeros(predictions.shape[:2]) + scores

    def _sources(self, *kinds: str) -> list[Node]:
        return [node for node in self._program.sources if node.operation in kinds]

    def _source(
        self, node: Node, predictions: Tensor, fields: Mapping[str, Values], inputs: Mapping[str, Values]
    ) -> Any:
        match node.operation:
            case "constant":
                return node.content
            case "table":
                return self.get_buffer(f"table{node.number}")
            case "prediction":
                return predictions[:, :, node.content]
        if node.content.startswith("item."):
            return _read(node, node.content.removeprefix("item."), fields, list(predictions.shape[:2]))
        return _read(node, node.content, inputs, list(predictions.shape[:1])).unsqueeze(1)


def _read(node: Node, name: str, given: Mapping[str, Values], shape: list[int]) -> Tensor:
    if name not in given:
        raise ValueError(f"{name}: expected its values, there are none")
    values, present = given[name]
    if node.operation == "present":
        if present is None:
            return torch.ones(shape, dtype=torch.bool, device=values.device)
        values = present
    if values.dtype != node.dtype or list(values.shape[: len(shape)]) != shape:
        raise ValueError(f"{name}: expected {shape} {node.dtype}, got {list(values.shape)} {values.dtype}")
    return values
