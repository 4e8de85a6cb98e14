"""What a benchmark found: facts, tables and pictures, printed and written as JSON, Markdown and PNG.

Rich and Matplotlib are imported by what needs them: a report without pictures can be written without either.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, NamedTuple

from silverray.benchmarks.common.machine import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

QUICK = "A quick run on little data, to see that it works: its figures mean nothing."
PANEL_INCHES = (6.5, 4.5)
"""At 100 dots an inch two of them are as wide as a page on a screen."""
PANELS_A_ROW = 2
"""A third would shrink all letters where the figure is shown in a page's width."""

Row = Mapping[str, Any]


class _Table(NamedTuple):
    title: str
    columns: Mapping[str, str]
    rows: list[Row]

    def cells(self) -> list[list[str]]:
        return [[_cell(template, row) for template in self.columns.values()] for row in self.rows]


class Report:
    """One benchmark's results, filled as it goes.

    Args:
        name: of the benchmark and of its files.
        title: what was measured.
        command: what makes the same report again.
        quick: whether it ran on too little data to be quoted; every output says so.
    """

    def __init__(self, name: str, title: str, command: str, *, quick: bool = False) -> None:
        self.name = name
        self.title = title
        self.command = command
        self.quick = quick
        self._facts: dict[str, Any] = {}
        self._tables: list[_Table] = []
        self._figures: list[tuple[str, Callable[[Axes], object]]] = []

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Add named values: settings, sizes, single figures."""
        self._facts |= facts

    def table(self, title: str, columns: Mapping[str, str], rows: Iterable[Row]) -> None:
        """Add a table.

        Args:
            title: its heading.
            columns: format strings over a row's cells by heading, such as `{"QPS": "{qps_p50:,.0f}"}`; a cell
                that is None or missing shows as `-`.
            rows: cells by name. The JSON file holds all of them, shown or not.
        """
        self._tables.append(_Table(title, columns, [dict(row) for row in rows]))

    def figure(self, title: str, draw: Callable[[Axes], object]) -> None:
        """Add a panel to the picture; `draw` gets its Matplotlib axes."""
        self._figures.append((title, draw))

    def print(self, console: Console) -> None:
        """Show the tables and facts in a terminal."""
        from rich.markup import escape
        from rich.table import Table

        console.print(self.title, style="bold", highlight=False, markup=False)
        if self.quick:
            console.print(QUICK, style="yellow")
        for table in self._tables:
            shown = Table(title=escape(table.title), title_justify="left")
            for heading, template in table.columns.items():
                shown.add_column(escape(heading), justify="right" if _is_number(template) else "left")
            for cells in table.cells():
                shown.add_row(*map(escape, cells))
            console.print(shown)
        for name, value in self._facts.items():
            console.print(f"{name}: {_show(value)}", highlight=False, markup=False, soft_wrap=True)

    def write(self, out: Path) -> list[Path]:
        """Write `NAME.json`, `NAME.md` and, if there is a figure, `NAME.png` into a folder, made if need be.

        Returns:
            The files.
        """
        out.mkdir(parents=True, exist_ok=True)
        document, text, picture = (out / f"{self.name}.{suffix}" for suffix in ("json", "md", "png"))
        machine = describe()
        content = self._document() | {"machine": machine}
        document.write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")
        text.write_text(self._markdown(machine), encoding="utf-8")
        if not self._figures:
            return [document, text]
        self._draw(picture)
        return [document, text, picture]

    def _document(self) -> dict[str, Any]:
        tables = [{"title": table.title, "rows": table.rows} for table in self._tables]
        head = {"name": self.name, "title": self.title, "command": self.command, "quick": self.quick}
        return head | {"facts": self._facts, "tables": tables}

    def _markdown(self, machine: Mapping[str, Any]) -> str:
        lines = [f"# {self.title}", "", *([f"**{QUICK}**", ""] if self.quick else []), f"    {self.command}", ""]
        for table in self._tables:
            rule = ["---:" if _is_number(template) else "---" for template in table.columns.values()]
            lines += [f"## {table.title}", "", *map(_line, [list(table.columns), rule, *table.cells()]), ""]
        lines += [f"- {name}: {_show(value)}" for name, value in {**self._facts, **machine}.items()]
        if self._figures:
            lines += ["", f"![{self.title}]({self.name}.png)"]
        return "\n".join(lines) + "\n"

    def _draw(self, file: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        columns = min(PANELS_A_ROW, len(self._figures))
        rows = math.ceil(len(self._figures) / columns)
        width, height = PANEL_INCHES
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel in panels[len(self._figures) :]:
            panel.set_axis_off()
        for panel, (title, draw) in zip(panels, self._figures, strict=False):
            draw(panel)
            panel.set_title(title)
        if self.quick:
            figure.suptitle(QUICK, fontsize="small")
        figure.savefig(file, dpi=100)


def _cell(template: str, row: Row) -> str:
    names = [name for _, name, _, _ in Formatter().parse(template) if name]
    if any(row.get(name) is None for name in names):
        return "-"
    return template.format_map(row)


def _is_number(template: str) -> bool:
    """Whether a cell has a number's format; such columns are aligned to the right."""
    return any(spec for _, _, spec, _ in Formatter().parse(template))


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _show(value: Any) -> str:
    match value:
        case Mapping():
            return ", ".join(f"{name} {_show(part)}" for name, part in value.items())
        case list() | tuple():
            return " ".join(map(_show, value))
        case float():
            return f"{value:,.4g}"
    return str(value)


def _plain(value: Any) -> Any:
    """NumPy numbers and paths as JSON."""
    return value.item() if hasattr(value, "item") else str(value)
