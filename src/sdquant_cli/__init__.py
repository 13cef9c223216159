"""sdquant: a Stable Diffusion model made small and fast while its pictures stay the same pictures."""

__version__ = "0.1.0"
