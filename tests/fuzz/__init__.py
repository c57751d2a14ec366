"""Inputs by chance: many, quickly. A seed is printed with each test; PILOTFISH_FUZZ_SEED chooses another."""
