"""What a run goes through, step by step; nothing here knows a vendor."""

from raft.pipeline.building import STEPS, Seams, build
from raft.protocols import Listen

__all__ = ["STEPS", "Listen", "Seams", "build"]
