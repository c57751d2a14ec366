"""HOW WE IMPROVE: what two algorithms share of their updates."""
