"""One set of classes under two import names: ``import envs`` from a clone's root is ``gqn_rl.envs`` itself.

Without this, ``from envs.arm import ArmReach`` would load a second copy of the file, whose classes are not those
that Gymnasium registers and that saved policies refer to.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def alias_package(alias: str, package: str) -> None:
    """Let ``alias`` and every ``alias.x`` name the very module objects of ``package`` and ``package.x``.

    To be called by the ``__init__`` of ``package`` while it is being imported under the name ``alias``.
    """
    sys.meta_path.insert(0, _AliasFinder(alias, package))
    sys.modules[alias] = importlib.import_module(package)


class _AliasFinder(MetaPathFinder, Loader):
    """Finds ``alias.x`` by importing ``package.x``."""

    def __init__(self, alias: str, package: str) -> None:
        self._alias = alias
        self._package = package

    def _original(self, fullname: str) -> str:
        return self._package + fullname.removeprefix(self._alias)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{self._alias}.") or find_spec(self._original(fullname)) is None:
            return None
        return ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        # The import system hands out what sys.modules holds once the loader is done, not what it passed in.
        sys.modules[module.__name__] = importlib.import_module(self._original(module.__name__))
