"""The site: every page is in the menu, every link leads somewhere, and what is made covers all that there is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from ctglip.cli.config import settings_class
from ctglip.config import load_tree, shipped_configs
from ctglip.error_codes import error_codes
from ctglip.tasks.settings import CONFIGS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from generate import pages
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return pages


@pytest.fixture(scope="module")
def pages(site: ModuleType) -> dict[str, str]:
    return site.every_page()


def links_of(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [one for one in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"[a-z]+:|#", one)]


def test_every_page_is_in_the_menu_once_and_has_a_title(site: ModuleType, pages: dict[str, str]) -> None:
    menu = site.nav(pages)
    assert Counter(site.places(menu)) == Counter(list(pages))
    assert [page for page, text in pages.items() if not site.title(text)] == []


def test_every_link_leads_to_a_page_or_a_file(pages: dict[str, str]) -> None:
    broken = []
    for page, text in pages.items():
        for link in links_of(text):
            there = (ROOT / "docs" / page).parent.joinpath(link.partition("#")[0]).resolve()
            name = there.relative_to(ROOT / "docs").as_posix() if there.is_relative_to(ROOT / "docs") else ""
            if name not in pages and not there.is_file():
                broken.append((page, link))
    assert broken == []


def test_the_reference_covers_every_command_config_setting_and_code(pages: dict[str, str]) -> None:
    from generate import commands, configs, python_names

    shown = pages["reference/commands.md"]
    for name, command in commands.commands():
        if getattr(command, "commands", None):
            continue
        part = shown.split(f"\n## {name}\n")[1].split("\n## ")[0]
        options = {option for one in command.params for option in one.opts if option.startswith("--")}
        assert {option for option in options if option not in part} == set(), name
    written = "".join(text for page, text in pages.items() if page.startswith("reference/configs/"))
    assert [name for name in shipped_configs() if f"\n## {name}\n" not in written] == []
    assert {str(load_tree(name)["kind"]) for name in shipped_configs()} <= set(configs.KINDS)
    assert set(CONFIGS.values()) <= set(configs.classes("finetune"))
    for kind in configs.KINDS:
        page = pages[f"reference/settings/{kind}.md"]
        assert settings_class(kind) in configs.classes(kind)
        for one in configs.classes(kind):
            part = page.split(f"\n## {one.__name__}\n")[1].split("\n## ")[0]
            assert [name for name in one.model_fields if f"| `{name}` |" not in part] == []
    assert [code for code in error_codes() if f"\n## {code}\n" not in pages["reference/errors.md"]] == []
    for package in python_names.packages():
        for name, module in python_names.origins_of(package).items():
            home = python_names.home_of(name)
            assert f"::: {module}.{name}\n" in pages[f"reference/python/{home}.md"]
            assert home == package or f"`{name}`: [" in pages[f"reference/python/{package}.md"]


def test_settings_are_described_where_their_class_says_what_they_are() -> None:
    from generate import configs

    from ctglip.training.pretrain_config import PretrainConfig

    said = configs.described(PretrainConfig)
    assert said["seed"] == "of weights, batches, texts and augmentations."
    assert said["initial"].endswith("for the image encoder alone).")


def test_a_link_out_of_the_site_is_left_as_text(site: ModuleType) -> None:
    text = "[code](../ctglip/api.py) [guide](asking.md#one-scan) [pre](../preprocessing/README.md) `[a](b.md)`"
    changed = site.relinked(text.replace("`[a](b.md)`", ""), "docs/api.md", "api.md")
    assert changed.strip() == "code [guide](asking.md#one-scan) [pre](reference/preprocessing.md)"
    assert site.relinked("[x](docs/asking.md)", "README.md", "index.md") == "[x](asking.md)"


def test_tutorials_are_shown_cell_by_cell(tmp_path: Path) -> None:
    from generate import notebooks

    found = notebooks.cells("# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\nprint(x)\n")
    assert found == [("markdown", "# Title\n\nText."), ("code", "x = 1\nprint(x)")]


@pytest.mark.slow
@pytest.mark.ci
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for page in ("index.html", "reference/commands.html", "reference/python/ctglip.html", "faq.html"):
        assert (tmp_path / "site" / page).is_file()
    shown = (tmp_path / "site/reference/python/ctglip.html").read_text(encoding="utf-8")
    assert "load_model" in shown
    shutil.rmtree(tmp_path / "site")
