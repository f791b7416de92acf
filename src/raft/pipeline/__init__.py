"""What a run goes through, step by step; nothing here knows a vendor."""

from raft.pipeline.building import Listen, Seams, build

__all__ = ["Listen", "Seams", "build"]
