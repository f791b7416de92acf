"""What a run goes through, step by step; nothing here knows a vendor."""

from raft.pipeline.building import STEPS, Listen, Seams, build

__all__ = ["STEPS", "Listen", "Seams", "build"]
