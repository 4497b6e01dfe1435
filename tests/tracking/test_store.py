"""SQLite files that open as a store."""

import pytest

from raysde.tracking.store import connect_client


@pytest.mark.parametrize("made", [True, False], ids=["empty", "absent"])
def test_a_file_without_tables_becomes_a_store(tmp_path, made):
    """SQLite leaves an empty file between opening a new database and its first table."""
    path = tmp_path / "m.db"
    if made:
        path.touch()
    client = connect_client(f"sqlite:///{path}")
    client.create_experiment("e")
    assert path.read_bytes().startswith(b"SQLite format 3")
    assert [each.name for each in connect_client(f"sqlite:///{path}").search_experiments()] == ["e", "Default"]
