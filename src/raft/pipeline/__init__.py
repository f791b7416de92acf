"""What a run goes through, step by step; nothing here knows a vendor."""

from raft.pipeline.building import Seams, build
from raft.protocols import Listen

__all__ = ["Listen", "Seams", "build"]
