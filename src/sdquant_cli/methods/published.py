"""All methods by name."""

from . import parallel, rtn, serial, serial_to_parallel
from .recipe import Recipe

METHODS: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE for module in (serial_to_parallel, serial, parallel, rtn)
}
