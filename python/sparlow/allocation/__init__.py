"""Sharing one budget among the layers of a model: see `sparlow.allocation.settings.Allocation`."""
