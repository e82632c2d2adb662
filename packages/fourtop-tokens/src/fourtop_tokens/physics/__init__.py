"""The event generator: phase space, decays, detector response and selection. NumPy only.

Arrays of four-momenta put the component first, (4, ..., N) in the order E, px, py, pz and in GeV, so that one
component of one particle is contiguous over the N events of a batch.
"""
