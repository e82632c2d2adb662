"""Metrics of the four tasks; `legacy` keeps the historical definitions under their names."""
