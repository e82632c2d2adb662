"""Operators for measured hot spots: one module each, with a PyTorch reference beside the compiled kernel.

    from hep_shared.ops.propagate import propagate

Which one serves is decided once, see `_backend`. Every module has the same parts in this order: the formula,
the public function with its checks, the reference, and the registration (schema, shapes, derivative).
"""
