"""Our sweeper and launcher, made known to Hydra."""

import importlib
import sys
from types import ModuleType
from typing import Final

from hydra.core.plugins import Plugins

from signlang.sweeps.launcher import Launcher
from signlang.sweeps.sweeper import Sweeper

ROOT: Final = "hydra_plugins"  # Hydra instantiates nothing from outside of this name space
HOME: Final = f"{ROOT}.signlang"


def register() -> None:
    """Give them a place in Hydra's name space for plugins, in this process only.

    A package there would do as well, but every start of every Hydra program on the machine would
    import it.
    """
    try:
        importlib.import_module(ROOT)
    except ModuleNotFoundError:  # no plugin is installed
        sys.modules[ROOT] = ModuleType(ROOT)
        sys.modules[ROOT].__path__ = []
    home = sys.modules[HOME] = ModuleType(HOME)
    for plugin in (Launcher, Sweeper):
        plugin.__module__ = HOME
        setattr(home, plugin.__name__, plugin)
        Plugins.instance().register(plugin)
