"""The report: one self-contained HTML page from numbers and pictures. Knows no store."""
