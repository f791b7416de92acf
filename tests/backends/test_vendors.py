"""Vendors' packages are imported so that they do without what they need not, and nobody else has to."""

import sys

from raft.backends import vendors


def test_another_package_is_hidden_for_the_first_import_alone(monkeypatch):
    """What is imported already hides nothing any more: another thread may import the other package at that moment."""
    hidden = []
    monkeypatch.setattr(vendors, "import_module", lambda name: hidden.append("other_package" in sys.modules))
    for name in ("package_that_is_new", "json"):
        vendors.import_without(name, "other_package")
    assert hidden == [True, False]
    assert "other_package" not in sys.modules
