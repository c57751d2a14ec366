"""The crank, written once: the loop, the store of runs, resuming. Knows only the algorithm and world protocols."""
