"""Questions to RAFT rows."""
