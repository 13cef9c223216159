"""Read parquet files in batches, and only the column of the prompts."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .columns import choose
from .entries import Entry, Unreadable

if TYPE_CHECKING:
    from pyarrow import DataType

BATCH_ROWS = 256  # a prompt may take 400 kB


def read_parquet(path: Path, column: str | None) -> Iterator[Entry]:
    """Yield the texts of each row; a list holds several."""
    import pyarrow

    with path.open("rb") as opened:
        try:
            yield from _read(opened, column)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise Unreadable(f"cannot be read as parquet: {reason}") from None


def _read(opened: BinaryIO, column: str | None) -> Iterator[Entry]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(opened) as file:
        schema = file.schema_arrow
        field = schema.field(choose(schema.names, column))
        if not _is_text(_element(field.type)):
            raise Unreadable(f"column {field.name}: expected text, found {field.type}")
        row = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=[field.name]):
            for value in batch.column(0).to_pylist():
                row += 1
                for text in value if isinstance(value, list) else [value]:
                    yield Entry(f"row {row}", text or "")


def _element(kind: "DataType") -> "DataType":
    """Return the type of the elements of lists and of categories, else the type itself."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: "DataType") -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)
