"""Files, features, normalisation and the loader."""
