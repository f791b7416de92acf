"""What is kept on disk: run directories, the ledger, adapters."""
