"""The course as static pages: the live page, notebooks whose sliders move without a kernel, results, API reference.

    python -m equilib.site OUTPUT notebooks/*.ipynb

runs each notebook at the budget of ``EQUILIB_BUDGET``, asks every widget for its frames, and builds the pages.  MkDocs
with the theme Material does bar, search, dark mode and code, mkdocstrings the API reference.  Written here is what they do
not have: notebooks with our sliders, and formulas as MathML, so that nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import nbformat
from tqdm import tqdm

from equilib import live
from equilib.notebooks import repository, watched_runs
from equilib.results import replaceable_folder
from equilib.widgets.explorer import FRAMES

ROOT = Path(__file__).parents[2]
MARKS = ("index.html", "sitemap.xml", "turning_field.gif")  # every site of this course has them
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.S)
LIVE = "equilib/live/README.md"  # links to it lead to the page itself
THEME = Path(__file__).parent / "theme"
# A section of the README that is a page of its own; the start page's; the others stand together on «The library».
RESULTS = "Results"
START = ("", "The idea in ten lines", "Notebooks")
# Files of the project that are pages as they are.
FILES = {
    "runs.md": "results/README.md",
    "speed.md": "benchmarks/README.md",
    "instructors.md": "notebooks/instructors.md",
    "glossary.md": "notebooks/glossary.md",
}


def math_to_mathml(text: str) -> str:
    """Replace $…$ and $$…$$ outside code by MathML, which browsers draw without a script."""
    from latex2mathml.converter import convert

    def replaced(match):
        display = match[1] is not None
        return convert(match[1] or match[2], display="block" if display else "inline").replace("\n", " ")

    parts = CODE.split(text)
    return "".join(
        part if index % 2 else re.sub(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", replaced, part, flags=re.S)
        for index, part in enumerate(parts)
    )


def rewrite_links(text: str, folder: str, names: set[str], address: str, *, with_live: bool = False) -> str:
    """Links between notebooks lead to their pages, links to other files of the project to its repository.

    Args:
        folder: of the page in the project, ``""`` or ``"notebooks"``.
        names: of the notebooks (without ending) that have a page.
        address: of the repository.
        with_live: whether the site has the live page.
    """
    from markdown.extensions.toc import slugify

    pages = {source: page for page, source in FILES.items()}

    def target(match):
        link = match[1]
        if re.match(r"https?:|#", link):
            return match[0]
        path, _, fragment = link.partition("#")
        inside = os.path.normpath(os.path.join(folder, path)).replace(os.sep, "/")
        anchor = "#" + slugify(fragment.replace("-", " "), "-") if fragment else ""
        file = Path(inside)
        if file.suffix == ".ipynb" and file.stem in names:
            return f"]({file.stem}.md{anchor})"
        if inside in pages:
            return f"]({pages[inside]}{anchor})"
        if inside == "notebooks/turning_field.gif":
            return f"]({file.name})"
        if inside == LIVE and with_live:
            return "](try/index.html)"
        kind = "tree" if (ROOT / inside).is_dir() else "blob"
        return f"]({address}/{kind}/main/{inside})"

    # A word instead of the badge: the pages have a design of their own.
    text = re.sub(r"\[!\[Open in Colab\]\([^)]*\)\]", "[Open in Colab]", text)
    # A link's text may be code, as in [`fields.py`](…), so code is not left out; no code of the course holds such brackets.
    return re.sub(r"\]\(([^)\s]+)\)", target, text)


def _save_pictures(pictures: list[bytes], folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        Image.open(io.BytesIO(picture)).convert("RGB").quantize(128).save(folder / f"{index:04d}.png", optimize=True)


def _slider(frames: dict, folder: str, words: str) -> str:
    """HTML of a widget: a range input for each control, and the picture of the start."""
    start = 0
    for axis in frames["axes"]:
        start = start * len(axis["labels"]) + axis["start"]
    data = {"folder": folder, "labels": [axis["labels"] for axis in frames["axes"]]}
    controls = "".join(
        f'<label>{html.escape(axis["name"])} <input type="range" min="0" max="{len(axis["labels"]) - 1}" step="1" '
        f'value="{axis["start"]}" aria-valuetext="{html.escape(axis["labels"][axis["start"]])}">'
        f"<output>{html.escape(axis['labels'][axis['start']])}</output></label>"
        for axis in frames["axes"]
    )
    return (
        f'<figure class="frames" data-frames="{html.escape(json.dumps(data))}">{controls}'
        f'<img src="{folder}{start:04d}.png" alt="{html.escape(words)}"></figure>'
    )


def page(
    notebook: nbformat.NotebookNode, name: str, docs: Path, names: set[str], address: str, *, with_live: bool = False
) -> str:
    """The Markdown of an executed notebook; its pictures and frames go to ``docs/files/NAME``."""
    parts, pictures = [], 0
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            text = rewrite_links(math_to_mathml(cell.source), "notebooks", names, address, with_live=with_live)
            parts.append(text.replace("<details>", '<details markdown="1">'))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        if printed:
            parts.append(f'<pre class="cell-output">{html.escape(printed.rstrip())}</pre>')
        for output in cell.outputs:
            data = output.get("data", {})
            words = " ".join(data.get("text/plain", "").split())
            if FRAMES in data:
                frames = data[FRAMES]
                folder = f"files/{name}/widget{index}/"
                _save_pictures([base64.b64decode(picture) for picture in frames["pictures"]], docs / folder)
                parts.append(_slider(frames, folder, words))
            elif "image/png" in data:
                file = docs / "files" / name / f"picture{pictures}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(data["image/png"]))
                parts.append(
                    f'<p class="cell-picture"><img src="files/{name}/{file.name}" alt="{html.escape(words)}"></p>'
                )
                pictures += 1
            elif "text/markdown" in data:
                parts.append(math_to_mathml(data["text/markdown"]))
    return "\n\n".join(parts) + "\n"


def sections(readme: str) -> dict[str, str]:
    """The text of a README by the words of its second-level headings; what comes before the first stands under ``""``."""
    parts = re.split(r"^## (.+)$", readme, flags=re.M)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2]))


def reference(package: Path) -> dict[str, str]:
    """For each public module of a package, its page's name and its Markdown, which mkdocstrings fills."""
    names = [path.stem for path in sorted(package.glob("*.py")) if not path.name.startswith("_")]
    names += [path.parent.name for path in sorted(package.glob("*/__init__.py"))]
    pages = {}
    for name in sorted(names):
        blocks = [f"::: {package.name}.{name}\n"]
        if (package / name).is_dir():  # what a package offers is what its modules hold
            inner = [path.stem for path in sorted((package / name).glob("*.py")) if not path.name.startswith("_")]
            blocks += [
                f"::: {package.name}.{name}.{module}\n    options:\n      heading_level: 2\n" for module in inner
            ]
        pages[f"reference/{name}.md"] = "\n".join(blocks)
    return pages


def start_page(parts: dict[str, str], with_live: bool) -> str:
    """The start page: what the course is, the live page, then the rest of the README's beginning."""
    title, first, *rest = [part for part in parts[""].split("\n\n") if part.strip()]
    if with_live:
        try_it = (
            '<iframe class="live" src="try/index.html?embed" title="Two networks look at the same tissue: turn it"></iframe>\n\n'
            "[**Try it on a page of its own**](equilib/live/README.md): read the bits, compare twelve patches, bring your own."
        )
    else:
        try_it = (
            "The live page, on which the networks run in your browser, is not part of this build: install Node.js, which "
            "brings npm, then run `make site` again."
        )
    chapters = "".join(f"\n\n## {name}\n\n{parts[name].strip()}" for name in reversed(START[1:]) if name in parts)
    # All of the width for the live page.
    return "---\nhide: [navigation, toc]\n---\n\n" + "\n\n".join([title, first, try_it, *rest]) + chapters + "\n"


def build(paths: Iterable[Path], output: Path) -> None:
    """Run the notebooks and write the site.

    Args:
        paths: of the notebooks.
        output: folder of the site: new, empty, or with an earlier site, which is replaced.

    Raises:
        ValueError: the folder holds something else.
    """
    import mkdocs.commands.build
    import mkdocs.config

    paths, output = [Path(path) for path in paths], replaceable_folder(output, MARKS)
    names, address = {path.stem for path in paths}, repository(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        docs = Path(temporary) / "docs"
        shutil.copytree(THEME, docs / "assets", ignore=shutil.ignore_patterns("*.yml"))
        shutil.copyfile(live.PAGE / "icon.svg", docs / "assets" / "icon.svg")
        shutil.copyfile(ROOT / "notebooks" / "turning_field.gif", docs / "turning_field.gif")
        with_live = _live_page(docs / "try", {path.name[:2]: f"../{path.stem}.html" for path in paths})
        for name, (text, folder) in _prose(with_live).items():
            text = rewrite_links(math_to_mathml(text), folder, names, address, with_live=with_live)
            (docs / name).write_text(text, encoding="utf-8")
        with _frames_wanted():
            for path, run in watched_runs(paths):
                tqdm.write(f"running {path.name}")
                text = page(run(), path.stem, docs, names, address, with_live=with_live)
                (docs / f"{path.stem}.md").write_text(text, encoding="utf-8")
        modules = reference(ROOT / "equilib")
        (docs / "reference").mkdir()
        for name, text in modules.items():
            (docs / name).write_text(text, encoding="utf-8")
        settings = dict(docs_dir=str(docs), site_dir=str(output), nav=_bar(paths, modules, with_live))
        mkdocs.commands.build.build(mkdocs.config.load_config(str(THEME / "mkdocs.yml"), **settings))


def _prose(with_live: bool) -> dict[str, tuple[str, str]]:
    """The pages that are written by hand: name to Markdown and the folder of the project that it comes from."""
    parts = sections((ROOT / "README.md").read_text(encoding="utf-8"))
    others = [heading for heading in parts if heading not in (RESULTS, *START)]
    files = {name: (ROOT / source) for name, source in FILES.items()}
    return {
        "index.md": (start_page(parts, with_live), ""),
        "results.md": (f"# {RESULTS}\n{parts[RESULTS]}", ""),
        "library.md": ("# The library\n" + "".join(f"\n## {heading}\n{parts[heading]}" for heading in others), ""),
        **{
            name: (path.read_text(encoding="utf-8"), str(path.parent.relative_to(ROOT)).strip("."))
            for name, path in files.items()
        },
    }


def _bar(paths: list[Path], modules: Iterable[str], with_live: bool) -> list[dict]:
    """What the bar and the side bar show."""
    links = re.findall(r"\[([^]]+)\]\(notebooks/(\w+)\.ipynb\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    titles = {name: title for title, name in links}
    chapters = [{titles.get(path.stem, path.stem.replace("_", " ")): f"{path.stem}.md"} for path in paths]
    return [
        {"Start": "index.md"},
        *([{"Try it": "try/index.html"}] if with_live else []),
        {"Course": [*chapters, {"Glossary": "glossary.md"}]},
        {"Results": [{"Results": "results.md"}, {"All runs": "runs.md"}, {"Speed": "speed.md"}]},
        {"Library": [{"Use it": "library.md"}, *({Path(name).stem: name} for name in modules)]},
        {"For instructors": "instructors.md"},
    ]


def _live_page(folder: Path, notebooks: dict[str, str]) -> bool:
    """Whether the page could be built; if not, one line says how to get it."""
    try:
        live.build(folder, notebooks=notebooks)
    except live.LivePageError as error:
        print(f"without the page «Try it»: {error}", flush=True)
        return False
    return True


@contextmanager
def _frames_wanted():
    """Kernels that start now hand out the pictures of all their sliders' settings."""
    before = os.environ.get("EQUILIB_FRAMES")
    os.environ["EQUILIB_FRAMES"] = "1"
    try:
        yield
    finally:
        os.environ.pop("EQUILIB_FRAMES") if before is None else os.environ.update(EQUILIB_FRAMES=before)
