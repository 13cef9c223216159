"""All methods by name."""

from ..calibration.recipe import Recipe
from . import eda_dm, parallel, pcr, pqd, ptq4dm, q_diffusion, rtn, serial, serial_to_parallel

_MODULES = (serial_to_parallel, serial, parallel, eda_dm, pqd, q_diffusion, ptq4dm, pcr, rtn)

METHODS: dict[str, Recipe] = {module.RECIPE.name: module.RECIPE for module in _MODULES}
