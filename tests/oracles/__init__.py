"""References for the tests: plain NumPy and SciPy, sharing no code with the library."""
