"""Loads published snapshots with real readers and holds what they see to the manifest.

usage: check_snapshot.py SNAPSHOT...

Each SNAPSHOT is a directory that `uptake snapshot publish` wrote. Read with `datasets` (both configs), pandas and DuckDB:
rows of each split, types, the messages' shape, and that no conversation is in both splits.
"""

import hashlib
import json
import sys
from pathlib import Path

import datasets
import duckdb
import pandas
import pyarrow
import pyarrow.parquet

MESSAGE_COLUMNS = {
    "preference_pairs": ["prompt", "chosen", "rejected"],
    "unpaired": ["prompt", "completion", "conversation"],
    "love": ["prompt", "response"],
    "prompts": ["prompt"],
    "supervised": ["messages"],
}
ONE_ASSISTANT_MESSAGE = ["chosen", "rejected", "completion", "response"]
TEXT_COLUMNS = {
    "preference_pairs": ["prompt_text", "chosen_text", "rejected_text"],
    "unpaired": ["prompt_text", "completion_text"],
    "love": ["prompt_text", "response_text"],
    "prompts": ["prompt_text"],
    "supervised": ["prompt_text", "response_text"],
}


def check(condition, message):
    """Unlike `assert`, this stays in optimised runs."""
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def check_files(directory, manifest):
    """The manifest names every file, as it is."""
    for entry in manifest["files"]:
        content = (directory / entry["path"]).read_bytes()
        check(len(content) == entry["bytes"], f"{entry['path']}: size")
        check(hashlib.sha256(content).hexdigest() == entry["sha256"], f"{entry['path']}: sha256")
        if "rows" in entry:
            file = pyarrow.parquet.ParquetFile(directory / entry["path"])
            check(file.metadata.num_rows == entry["rows"], f"{entry['path']}: rows")
            check(b"ARROW:schema" not in (file.schema_arrow.metadata or {}), f"{entry['path']}: Arrow schema embedded")
            check(b"ARROW:schema" not in (file.metadata.metadata or {}), f"{entry['path']}: Arrow schema embedded")
            for field in file.schema_arrow:
                check_type(field.type, f"{entry['path']}: {field.name}")


def check_type(kind, place):
    """Strings are strings, lists are lists, all the way down."""
    types = pyarrow.types
    check(not types.is_string_view(kind) and not types.is_binary_view(kind), f"{place}: string view")
    check(not types.is_large_list(kind) and not types.is_large_string(kind), f"{place}: large type")
    check(not types.is_map(kind) and not types.is_fixed_size_binary(kind), f"{place}: {kind}")
    if types.is_list(kind):
        check_type(kind.value_type, place)
    if types.is_struct(kind):
        for field in kind:
            check_type(field.type, place)


def check_messages(name, split, row):
    """Every message is exactly {role, content}; answers are one assistant message."""
    for column in MESSAGE_COLUMNS[name]:
        messages = row[column]
        check(len(messages) > 0, f"{name} {split}: empty {column}")
        for message in messages:
            check(set(message) == {"role", "content"}, f"{name} {split}: {column} has keys {sorted(message)}")
            check(isinstance(message["content"], str), f"{name} {split}: {column} content")
        if column == "prompt":
            check(messages[-1]["role"] == "user", f"{name} {split}: prompt ends in {messages[-1]['role']}")
        if column in ONE_ASSISTANT_MESSAGE:
            check([m["role"] for m in messages] == ["assistant"], f"{name} {split}: {column}")
    if name == "preference_pairs":
        check(row["chosen"] != row["rejected"], f"{name} {split}: chosen is rejected")
        check(row["chosen_message"] == row["chosen"][0], f"{name} {split}: chosen_message")
        check(row["rejected_message"] == row["rejected"][0], f"{name} {split}: rejected_message")
        check("label" not in row, f"{name} {split}: a column `label`")
    if name == "unpaired":
        check(isinstance(row["label"], bool), f"{name} {split}: label is {row['label']!r}")
        check(row["conversation"] == row["prompt"] + row["completion"], f"{name} {split}: conversation")


def check_datasets(directory, manifest):
    """`load_dataset(directory)` takes the right files, and both views hold the same rows in the same order."""
    name = manifest["name"]
    rows = datasets.load_dataset(str(directory))
    texts = datasets.load_dataset(str(directory), "text")
    expected = {split: count for split, count in manifest["rows"].items() if count}
    check({split: len(part) for split, part in rows.items()} == expected, f"{name}: rows by split {rows}")
    check({split: len(part) for split, part in texts.items()} == expected, f"{name}: rendered rows by split {texts}")
    conversations = {}
    for split, part in rows.items():
        check(list(part.features)[: len(MESSAGE_COLUMNS[name][:1])] == MESSAGE_COLUMNS[name][:1], f"{name}: first column")
        check(set(part["split"]) == {split}, f"{name} {split}: column `split`")
        conversations[split] = set(part["conversation_id"])
        check(len(conversations[split]) == manifest["conversations"][split], f"{name} {split}: conversations")
        for row, text in zip(part, texts[split]):
            check_messages(name, split, row)
            check(text["conversation_id"] == row["conversation_id"], f"{name} {split}: rendered rows in another order")
            for column in TEXT_COLUMNS[name]:
                check(isinstance(text[column], str) and text[column], f"{name} {split}: {column}")
            test_from = manifest["split"]["test_from"]
            if split == "train" and test_from:
                check(str(row["conversation_date"])[:10] < test_from, f"{name}: a train row of {row['conversation_date']}")
    both = conversations.get("train", set()) & conversations.get("test", set())
    check(not both, f"{name}: conversations in both splits: {sorted(both)[:3]}")
    if name == "unpaired":
        check_interleaved(rows["train"]["label"])


def check_interleaved(labels):
    """Any stretch of the file holds both classes in about their proportion."""
    labels = list(labels)
    share = sum(labels) / len(labels)
    stretch = 50
    for start in range(0, len(labels) - stretch, stretch):
        liked = sum(labels[start : start + stretch])
        check(abs(liked - share * stretch) <= 2, f"unpaired: {liked} liked of {stretch} from row {start}, {share:.2f} overall")


def check_others(directory, manifest):
    """pandas and DuckDB read the same number of rows, and text as text."""
    name = manifest["name"]
    for split, expected in manifest["rows"].items():
        files = sorted(directory.glob(f"{split}-*.parquet"))
        frame = pandas.concat([pandas.read_parquet(file) for file in files]) if files else []
        check(len(frame) == expected, f"{name} {split}: pandas sees {len(frame)} rows")
        if not files:
            continue
        pattern = str(directory / f"{split}-*.parquet")
        rows, kind = duckdb.execute(
            "SELECT count(*), any_value(typeof(conversation_id)) FROM read_parquet(?)", [pattern]
        ).fetchone()
        check((rows, kind) == (expected, "VARCHAR"), f"{name} {split}: DuckDB sees {rows} rows of {kind}")
        column = MESSAGE_COLUMNS[name][0]
        kind = duckdb.execute(f"SELECT any_value(typeof({column})) FROM read_parquet(?)", [pattern]).fetchone()[0]
        check(kind == 'STRUCT("role" VARCHAR, "content" VARCHAR)[]', f"{name} {split}: DuckDB sees {column} as {kind}")


def main(arguments):
    if not arguments:
        raise SystemExit(__doc__)
    datasets.disable_progress_bars()
    versions = f"datasets {datasets.__version__}, pyarrow {pyarrow.__version__}, pandas {pandas.__version__}, duckdb {duckdb.__version__}"
    for argument in arguments:
        directory = Path(argument).resolve()
        manifest = json.loads((directory / "manifest.json").read_text())
        check_files(directory, manifest)
        check_datasets(directory, manifest)
        check_others(directory, manifest)
        print(f"ok: {manifest['name']} {manifest['id']} {manifest['rows']} ({versions})")


if __name__ == "__main__":
    main(sys.argv[1:])
