"""Transformer matching: the layers of a compressed block trained together to give the dense block's output."""
