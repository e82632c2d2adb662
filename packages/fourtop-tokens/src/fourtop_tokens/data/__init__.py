"""Files on disk, events in memory, and the binning that turns events into tokens."""
