"""Write the catalogue into the dataset: each item with its encoded inputs, in ascending order.

    dataset/_items/items.parquet      item, interactions, and the encoded columns of the item's side

Negatives are drawn from it, and lists are made of it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from nfm.contract.encoder import load_once
from nfm.contract.publishing.replace import replacing
from nfm.features.ranking.tables import CATALOGUE_COUNT
from nfm.forward.catalogue import CATALOGUE, COUNT, ITEM
from nfm.forward.sides import divide
from nfm.table.tasks import run_tasks

_DONE = pa.schema([("items", pa.int64())])


def write_catalogue(spark: SparkSession, raw: Path, item: str, encoding: tuple[Path, str], target: Path) -> int:
    """Encode the items in one task; return their number.

    Args:
        spark: The session.
        raw: Folder of the Parquet file of items, in ascending order.
        item: Column of the item.
        encoding: Folder of the encoding and its fingerprint.
        target: Folder of the dataset.
    """

    def write(path: Path) -> Iterator[pa.RecordBatch]:
        loaded = load_once(*encoding)
        side = replace(loaded, spec=divide(loaded.spec)[1])
        files = [pq.ParquetFile(one) for one in sorted(path.glob("*.parquet"))]
        count = 0
        with replacing(target / CATALOGUE, shared=True) as attempt:
            writer = None
            for file in files:
                for batch in file.iter_batches(1 << 16, use_threads=False):
                    columns = {ITEM: batch.column(item), COUNT: batch.column(CATALOGUE_COUNT)}
                    columns |= {name: pa.array(values) for name, values in side.encode(batch, same_table=True).items()}
                    table = pa.table(columns)
                    writer = writer or pq.ParquetWriter(attempt, table.schema)
                    writer.write_table(table)
                    count += len(table)
            if writer is not None:
                writer.close()
        yield pa.RecordBatch.from_pylist([{"items": count}], _DONE)

    (target / CATALOGUE).parent.mkdir()
    return int(run_tasks(spark, [raw], write, _DONE).collect()[0]["items"])
