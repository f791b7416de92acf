"""`python -m raft` is the command `raft`."""

from raft.cli import main

main(prog_name="raft")
