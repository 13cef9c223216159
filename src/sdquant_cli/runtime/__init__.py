"""Packed networks: integer weights, engines that compute with them, and exported folders."""
