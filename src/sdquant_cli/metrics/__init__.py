"""Measures of closeness: `features` opens the metric networks, the other modules hold pure formulas."""
