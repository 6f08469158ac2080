"""What a user finds in each package: a paragraph, public names that are there, nothing heavy until it is asked for."""

from __future__ import annotations

import doctest
import json
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

import ctglip
from ctglip.lazy import origins

PACKAGES = ["ctglip", *(f"ctglip.{m.name}" for m in pkgutil.iter_modules(ctglip.__path__) if m.ispkg)]
TORCH_FREE = ("vocabulary", "reports", "store", "pages", "simulation", "ct", "cxr")


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_those_of_their_modules(package: str) -> None:
    module = import_module(package)
    assert module.__doc__
    names = origins(package)
    assert names or package == "ctglip.cli"
    inside = {found.name for found in pkgutil.iter_modules(module.__path__)}
    assert not inside & names.keys(), "a module of that name would hide it"
    for name, origin in names.items():
        assert getattr(module, name) is getattr(import_module(origin), name)
        assert getattr(module, name).__doc__
        assert name in dir(module)
    if names:
        star: dict[str, object] = {}
        exec(f"from {package} import *", star)
        assert names.keys() <= star.keys()
        with pytest.raises(AttributeError, match="no_such_name"):
            module.no_such_name  # noqa: B018


def test_importing_packages_imports_nothing_heavy() -> None:
    code = "import sys, json, importlib\n"
    code += f"[importlib.import_module(name) for name in {PACKAGES}]\n"
    code += "print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    assert not loaded & {"torch", "numpy", "polars", "pydantic", "transformers", "zarr", "monai", "sklearn"}


def test_rooms_without_torch_show_all_they_have_without_torch() -> None:
    code = "import sys, importlib\nfrom ctglip.lazy import origins\n"
    code += f"for room in {TORCH_FREE}:\n"
    code += "    module = importlib.import_module(f'ctglip.{room}')\n"
    code += "    [getattr(module, name) for name in origins(module.__name__)]\n"
    code += "    assert 'torch' not in sys.modules, room\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_ctglip_is_quick() -> None:
    code = "import time; start = time.process_time(); import ctglip; print(time.process_time() - start)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(3)
    ]
    assert min(seconds) < 0.1


@pytest.mark.parametrize("name", ["ReportParser", "load_organs", "load_abnormalities", "simulate_study"])
def test_examples_of_public_names_run(name: str) -> None:
    found = doctest.DocTestFinder(recurse=False).find(getattr(ctglip, name), name, globs={"ctglip": ctglip})
    assert found[0].examples
    for one in found:
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(one).failed == 0


def test_losses_and_their_targets_have_examples_that_run() -> None:
    from ctglip import losses

    for name in ("soft_contrastive", "equal_key"):
        (one,) = doctest.DocTestFinder(recurse=False).find(getattr(losses, name), name, globs={})
        assert one.examples
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(one).failed == 0
