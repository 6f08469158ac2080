"""Pages lead where they say: links, anchors, paths of files, commands that run something of this tree."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("abnormality_dictionary", "configs", "docs", "experiments", "organ_dictionary", "preprocessing")
PAGES = sorted(ROOT.glob("*.md")) + [page for name in FOLDERS for page in sorted((ROOT / name).rglob("*.md"))]
ROOTED = r"(?:benchmarks|configs|ctglip|docs|experiments|preprocessing|tests|abnormality_dictionary|organ_dictionary)/"


def without_blocks(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Git hosts make them."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page whose file or anchor is missing."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


def missing_paths(text: str) -> list[str]:
    """Files of this tree and experiments that a text names and that are not there."""
    named = re.findall(rf"(?<![\w/.-])({ROOTED}[\w./-]+\.(?:py|md|yaml|png))\b", text)
    modules = [
        name.replace(".", "/") for name in re.findall(r"-m (experiments\.\w+)", text) if name != "experiments.NAME"
    ]
    return [name for name in named if "NAME" not in name and not (ROOT / name).is_file()] + [
        name for name in modules if not (ROOT / name / "__main__.py").is_file()
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_a_page_exist(page: Path) -> None:
    assert broken_links(page) == []
    assert missing_paths(page.read_text(encoding="utf-8")) == []


def missing_names(text: str) -> list[str]:
    """Names of the library in code style, `ctglip.a.b`, that are not there."""
    named = re.findall(r"`(ctglip(?:\.\w+)+)(?:\([^`]*\))?`", text)
    return [name for name in dict.fromkeys(named) if not there(name)]


def there(name: str) -> bool:
    """Whether a dotted name leads to something."""
    parts = name.split(".")
    found = import_module(parts[0])
    for number, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part):
            try:
                import_module(".".join(parts[:number]))
            except ImportError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_library_on_a_page_exist(page: Path) -> None:
    if not page.name.startswith("20"):  # dated notes tell of their day
        assert missing_names(page.read_text(encoding="utf-8")) == []


def test_paths_in_code_exist() -> None:
    code = [path for name in ("ctglip", "preprocessing", "benchmarks", "experiments", "abnormality_dictionary")
            for kind in ("py", "yaml") for path in (ROOT / name).rglob(f"*.{kind}")]  # fmt: skip
    found = {str(path.relative_to(ROOT)): missing_paths(path.read_text(encoding="utf-8")) for path in code}
    assert {name: missing for name, missing in found.items() if missing} == {}


def test_every_experiment_has_a_note_that_the_index_names() -> None:
    index = (ROOT / "experiments/README.md").read_text(encoding="utf-8")
    folders = [path.parent for path in (ROOT / "experiments").glob("*/__main__.py")]
    assert folders
    for folder in folders:
        assert f"({folder.name}/README.md)" in index
        note = (folder / "README.md").read_text(encoding="utf-8")
        assert f"experiments.{folder.name}" in note, "the command"
        assert "**Question.**" in note or "\n## Question" in note
    for note in (ROOT / "experiments").glob("*/2*.md"):
        home = index if note.parent.name == "notes" else (note.parent / "README.md").read_text(encoding="utf-8")
        assert note.name in home, f"{note} is linked from nowhere"


def test_a_broken_link_and_a_missing_path_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page, of two\n[here](#a-page-of-two) [gone](gone.md) [no](page.md#none) [w](https://x.org)\n")
    assert broken_links(page) == ["gone.md", "page.md#none"]
    text = "`docs/gone.md`, `python benchmarks/gone.py` and `python -m experiments.gone`; `docs/store.md` is there"
    assert missing_paths(text) == ["docs/gone.md", "benchmarks/gone.py", "experiments/gone"]
    assert missing_names("`ctglip.Store`, `ctglip.data.gone`, `ctglip.gone.x(3)`") == [
        "ctglip.data.gone",
        "ctglip.gone.x",
    ]
