"""Pictures of stored runs: learning curves, films, one self-contained page. Reads the store, never a live run."""
