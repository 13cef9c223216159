"""Measures of closeness: features from networks in one module, pure formulas in the others."""
