"""Data sets that are fetched on request from public package registries, pinned and verified. One file per set."""
