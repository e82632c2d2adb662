"""Files: names on disk, ROOT writer and reader, the memory-mapped store."""
