"""Names on disk, readers and writers of field maps and track batches."""
