"""The dataset's columns: ids and numbers that a feature job has written, read back by the training and by scoring."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from nfm.contract.arrays import content
from nfm.contract.encoder import Inputs, inputs
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec


def check_schema(spec: Spec, schema: pa.Schema, where: str, more: Iterable[str] = ()) -> None:
    """Raise DataError unless a table has the encoded columns in their types, and the `more` ones as float32."""
    plain, lists = dict.fromkeys(more, pa.float32()), dict[str, pa.DataType]()
    for field in spec.fields:
        (plain if field.bag is None else lists)[field.name] = pa.int32()
        lists |= dict.fromkeys(field.outputs[1:], pa.float32())
    plain |= {name: pa.float32() for number in spec.numbers for name in number.outputs}
    for name in (*plain, *lists):
        check_there(name, schema, where)
        found = schema.field(name).type
        right = pa.types.is_list(found) and found.value_type == lists[name] if name in lists else found == plain[name]
        if not right:
            due = f"list<{lists[name]}>" if name in lists else plain[name]
            raise DataError(
                f"Column '{name}' of {where} is {found}, not {due}: it was not written with this encoding. Take it "
                "away, or run jobs/features.py again."
            )


def check_there(name: str, schema: pa.Schema, where: str) -> None:
    """Raise DataError if a table lacks this column."""
    if name not in schema.names:
        raise DataError(
            f"{where} has no column '{name}'; it has {', '.join(schema.names)}. It was not written with this encoding "
            "and configuration: take it away, or run jobs/features.py again."
        )


def column(name: str, values: pa.Array, where: str) -> Any:
    """A column as `Encoding.encode` returns it: (N,) array, or a bag's N lists; DataError if it has nulls."""
    listed = pa.types.is_list(values.type)
    if values.null_count or (listed and values.flatten().null_count):
        raise DataError(
            f"Column '{name}' of {where} has nulls, and the feature job writes none: the file was changed. Run "
            "jobs/features.py again."
        )
    return values if listed else content(values)


def checked_inputs(spec: Spec, columns: Mapping[str, Any], where: str) -> Inputs:
    """Arrange columns, as `column` returns them, as the model's arrays; DataError for an id out of range."""
    arranged = inputs(spec, columns)
    # An id too large would be another field's row of the table, or none of the table's.
    plain = [field for field in spec.fields if field.bag is None]
    sizes = np.array([field.size for field in plain], np.uint32)
    outside_F = (arranged.ids_BF.view(np.uint32) >= sizes).any(axis=0)  # a negative one becomes a very large one
    wrong = plain[int(outside_F.argmax())].name if outside_F.any() else None
    if wrong is None and arranged.bag_rows.view(np.uint32).max(initial=0) >= spec.rows:
        wrong = next(field.name for field in spec.fields if field.bag is not None)
    if wrong is not None:
        raise DataError(
            f"{where} has ids of the field '{wrong}' that its vocabulary does not have: it was damaged, or written "
            "with another encoding. Run jobs/features.py again."
        )
    return arranged
