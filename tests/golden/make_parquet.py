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

CHATS = [[{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i} ü"}] for i in range(5)]
# As parquet has them: every message has every field.
CHATS[1][1] = {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}
pyarrow.parquet.write_table(pyarrow.table({"id": list(range(5)), "messages": CHATS}), HERE / "rows_chat.parquet", row_group_size=3)
SHARED = [[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]]
pyarrow.parquet.write_table(pyarrow.table({"conversations": SHARED}), HERE / "rows_shared.parquet")
