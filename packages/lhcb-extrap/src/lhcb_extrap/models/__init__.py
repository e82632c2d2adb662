"""Networks; plain keyword arguments."""
