"""Tables of one side, encoded with a part of the model's encoding."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from nfm.contract.dataset import arrange_inputs
from nfm.contract.encoder import Encoding
from nfm.contract.schema import Bag, Field, Number, Spec
from nfm.contract.vocabulary import Vocabulary, write_vocabulary
from nfm.forward.sides import select_side

ITEMS = ("tea", "jam", "rye")  # by id


def make_encoding(folder: Path) -> Encoding:
    counts = pa.array(range(len(ITEMS), 0, -1), pa.int64())
    table = pa.table({"value": pa.array(ITEMS, pa.large_string()), "count": counts})
    digest = write_vocabulary(folder, 0, "item", 2, len(ITEMS), [table])
    fields = (
        Field("item", ("item",), ("text",), 1, 3, "item"),
        Field("history", ("history",), ("text",), 1, 3, "item", bag=Bag(None, ",", None)),
        Field("age", ("age",), ("number",), 1, 2, None, edges=(30.0,)),
    )
    numbers = (
        Number("price", "price", "dense", 0.0, True, None, "none", 0.0, 2.0),
        Number("income", "income", "field", 0.0, False, None, "none", 1.0, 1.0),
    )
    spec = Spec(("id",), fields, numbers, (digest,))
    return Encoding(spec, Vocabulary.load(folder, spec.vocabularies))


def test_tables_of_one_side_are_encoded(tmp_path: Path) -> None:
    encoding = make_encoding(tmp_path)
    users = replace(encoding, spec=select_side(encoding.spec, ("history", "age", "income")))
    table = pa.record_batch({"income": [4.0], "age": [40], "history": [["rye", None, "tea"]]})
    users.check(table.schema, "the table")
    users.verify("the encoding")
    inputs = arrange_inputs(users.spec, users.encode(table))
    assert inputs.bag_rows.tolist() == [4, 0, 2]  # the block of `history` is the first one of its own side
    assert (inputs.ids_BF.tolist(), inputs.values_BN.tolist()) == ([[3]], [[3.0]])

    items = replace(encoding, spec=select_side(encoding.spec, ("item", "price")))
    table = pa.record_batch({"item": ["jam", "new", None], "price": [5.0, None, 1.0]})
    items.check(table.schema, "the table")
    inputs = arrange_inputs(items.spec, items.encode(table))
    assert inputs.ids_BF.tolist() == [[3], [1], [0]]
    assert inputs.dense_BD.tolist() == [[2.5, 0], [0, 1], [0.5, 0]]
