"""Rows as parquet: what tests/corpora_test.ts reads. Made with pyarrow 26.0.1: python tests/golden/make_parquet.py"""

import pathlib

import pyarrow
import pyarrow.parquet

HERE = pathlib.Path(__file__).parent
TEXTS = ["", " = Title = \n", "", "Zwei Zeilen\nund ein Umlaut: ü, 漢字, 🙂", " last @-@ row "] + [
    f"row {i} " + "word " * (i % 7) for i in range(40)
]

for codec in ["snappy", "zstd"]:
    table = pyarrow.table({"id": list(range(len(TEXTS))), "text": TEXTS})
    pyarrow.parquet.write_table(table, HERE / f"rows_{codec}.parquet", compression=codec, row_group_size=17)
