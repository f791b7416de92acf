"""What tests of documents share."""

import pytest

from raft.corpus.readers import read


@pytest.fixture
def one(tmp_path):
    """Write a file and read the one document in it."""

    def write_and_read(name, content, *, text_field="text", drop_templates=False):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        (reading,) = read(path, text_field=text_field, drop_templates=drop_templates)
        return reading

    return write_and_read
