"""Look up the target rates of a row's values, which are inputs beside the dense numbers.

The table of rates has the rows of the embedding table. For each id of the fields that have rates, a model has one rate,
or one for each class, and may have the logarithm of the number of rows; `training.data.rates` computes them. A training
has several for each id: one for each part of the train fold, computed without the labels of that part.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from nfm.kernels.compile import compile_now, compile_when_called
from nfm.kernels.pooling import Rows, read_only_array


class Rates(NamedTuple):
    """Rates of J fields and A bags. Columns: those of the fields, then those of the bags, C for each.

    C: number of outputs, and one more for the count.
    """

    table_RPC: NDArray[np.float32]  # rates of the R rows of the embedding table, for each of P parts
    fields_J2: NDArray[np.int64]  # column of each field in `Rows.ids_BF`, and first row of its block
    bags_A2: NDArray[np.int64]  # first row of each bag's block, and the row after the last one

    @property
    def columns(self) -> int:
        """Number of columns that `look_up` fills."""
        return int((len(self.fields_J2) + len(self.bags_A2)) * self.table_RPC.shape[2])


def look_up(
    rates: Rates, rows: Rows, part_B: NDArray[np.int8], start: int, stop: int, out_TX: NDArray[np.float32], first: int
) -> None:
    """Fill columns of a tile, from `first` on, with the rates of the rows from start up to stop. Releases the GIL.

    The rate of a bag is the mean of its members' rates; of a bag without members it is 0, the mean of all rows.

    Args:
        rates: the rates.
        rows: a batch.
        part_B: part of each row.
        start: first row.
        stop: row after the last one.
        out_TX: receives the rates in its first rows.
        first: first column.
    """
    batch = rows.ids_BF, rows.bag_rows, rows.bag_splits, part_B
    _compiled()(tuple(rates), batch, start, stop, out_TX, first)


@cache
def _compiled() -> Any:
    ids, blocks = read_only_array(types.int32, 2, "A"), read_only_array(types.int64, 2)
    table = types.Tuple([read_only_array(types.float32, 3), blocks, blocks])
    members, parts = (read_only_array(types.int32, 1), read_only_array(types.int64, 1)), read_only_array(types.int8, 1)
    out = types.Array(types.float32, 2, "C")
    arguments = [table, types.Tuple([ids, *members, parts]), types.int64, types.int64, out, types.int64]
    return compile_now(types.void(*arguments), _look_up)


def _look_up(rates: Any, batch: Any, start: Any, stop: Any, out_TX: Any, first: Any) -> None:
    ids_BF, bag_rows, bag_splits, part_B = batch
    table_RPC, fields_J2, bags_A2 = rates
    width = np.uint64(table_RPC.shape[2])
    for b in range(np.uint64(start), np.uint64(stop)):
        t, at, part = b - np.uint64(start), np.uint64(first), np.uint64(part_B[b])
        for j in range(np.uint64(len(fields_J2))):
            row = np.uint64(fields_J2[j, 1] + ids_BF[b, np.uint64(fields_J2[j, 0])])
            for c in range(width):
                out_TX[t, at] = table_RPC[row, part, c]
                at += np.uint64(1)
        begin, last = np.uint64(bag_splits[b]), np.uint64(bag_splits[b + np.uint64(1)])
        for a in range(np.uint64(len(bags_A2))):
            # The members of a row are ordered by bag; bags without rates may be between those with rates.
            while begin < last and bag_rows[begin] < bags_A2[a, 0]:
                begin += np.uint64(1)
            end = begin
            while end < last and bag_rows[end] < bags_A2[a, 1]:
                end += np.uint64(1)
            for c in range(width):
                total = np.float64(0)
                for i in range(begin, end):
                    total += table_RPC[np.uint64(bag_rows[i]), part, c]
                out_TX[t, at] = total / np.float64(end - begin) if end > begin else np.float64(0)
                at += np.uint64(1)
            begin = end


@compile_when_called
def replace_missing(owners_M2: Any, columns_R: Any, missing_RC: Any, inputs_MX: Any) -> None:
    """Set the target rates of variants in which a field is missing.

    Args:
        owners_M2: row and missing reason of each variant, see `reasons.Variants`.
        columns_R: int64 first column of inputs_MX with the rates of each reason; -1: none.
        missing_RC: float32 rates of each reason's missing value.
        inputs_MX: changed in place.
    """
    for m in range(len(owners_M2)):
        reason = owners_M2[m, 1]
        if reason >= 0 and columns_R[reason] >= 0:
            for c in range(missing_RC.shape[1]):
                inputs_MX[m, columns_R[reason] + c] = missing_RC[reason, c]


@compile_when_called
def add_labels(rates: Any, rows: Any, part_B: Any, weight_B: Any, label_BC: Any, sums_RPS: Any) -> None:
    """Add the labels of a batch to the sums of its values: Σ weight, then Σ weight · label for each of C labels.

    Args:
        rates: places of the fields and bags; the table is not read.
        rows: `Rows` of the batch.
        part_B: int8 part of each row.
        weight_B: float64 weights.
        label_BC: float64 labels times weight.
        sums_RPS: float64 sums for each row of the table and each part, S = 1 + C; changed in place.
    """
    _, fields_J2, bags_A2 = rates
    ids_BF, bag_rows, bag_splits = rows.ids_BF, rows.bag_rows, rows.bag_splits
    for b in range(len(part_B)):
        part = part_B[b]
        for j in range(len(fields_J2)):
            row = fields_J2[j, 1] + ids_BF[b, fields_J2[j, 0]]
            sums_RPS[row, part, 0] += weight_B[b]
            for c in range(label_BC.shape[1]):
                sums_RPS[row, part, 1 + c] += label_BC[b, c]
        for i in range(bag_splits[b], bag_splits[b + 1]):
            row = bag_rows[i]
            for a in range(len(bags_A2)):
                if bags_A2[a, 0] <= row < bags_A2[a, 1]:
                    sums_RPS[row, part, 0] += weight_B[b]
                    for c in range(label_BC.shape[1]):
                        sums_RPS[row, part, 1 + c] += label_BC[b, c]
