"""The course as static pages whose sliders move without a kernel.

    python -m equilib.site OUTPUT notebooks/*.ipynb

runs each notebook at the budget of ``EQUILIB_BUDGET``, asks every widget for its frames, and builds the pages with MkDocs.
Nothing in them is loaded from elsewhere: formulas become MathML, pictures and scripts are files of the site.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat

from equilib.notebooks import execute, repository
from equilib.widgets.explorer import FRAMES

ROOT = Path(__file__).parent.parent
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.S)
SCRIPT = """
document.querySelectorAll("figure.frames").forEach(figure => {
  const picture = figure.querySelector("img"), sliders = [...figure.querySelectorAll("input")];
  const data = JSON.parse(figure.dataset.frames);
  const show = () => {
    let index = 0;
    sliders.forEach((slider, axis) => {
      index = index * data.labels[axis].length + Number(slider.value);
      const label = data.labels[axis][slider.value];
      slider.setAttribute("aria-valuetext", label);
      slider.parentElement.querySelector("output").textContent = label;
    });
    picture.src = data.folder + String(index).padStart(4, "0") + ".png";
  };
  sliders.forEach(slider => slider.addEventListener("input", show));
});
"""
STYLE = """
figure.frames, .cell-picture { margin: 1em 0; }
figure.frames img, .cell-picture img { max-width: 100%; height: auto; background: white; }
figure.frames label { display: flex; flex-wrap: wrap; gap: 0.6em; align-items: center; margin-bottom: 0.4em; }
figure.frames input { flex: 1 1 12em; max-width: 24em; min-height: 1.8em; }
pre.cell-output { border-left: 3px solid #0072B2; padding: 0.4em 0.8em; white-space: pre-wrap; }
.highlight pre, pre { overflow-x: auto; }
table { display: block; overflow-x: auto; }
math[display="block"] { margin: 0.8em 0; overflow-x: auto; max-width: 100%; }
"""
CONFIG = """
site_name: equilib
theme:
  name: mkdocs
  color_mode: auto
  user_color_mode_toggle: true
  highlightjs: false
  locale: en
use_directory_urls: false
docs_dir: {docs}
site_dir: {site}
extra_css: [assets/equilib.css, assets/code.css]
extra_javascript: [assets/equilib.js]
plugins: [search]
markdown_extensions:
  - tables
  - fenced_code
  - md_in_html
  - codehilite: {{guess_lang: false}}
  - toc: {{permalink: false}}
nav: {nav}
validation: {{links: {{not_found: warn, anchors: warn, unrecognized_links: warn}}}}
"""


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


def rewrite_links(text: str, folder: str, names: set[str], address: str) -> str:
    """Links between notebooks lead to their pages, links to other files of the project to its repository.

    Args:
        folder: of the page in the project, ``""`` or ``"notebooks"``.
        names: of the notebooks (without ending) that have a page.
        address: of the repository.
    """
    from markdown.extensions.toc import slugify

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
        if inside in ("notebooks/glossary.md", "notebooks/turning_field.gif"):
            return f"]({file.name}{anchor})"
        kind = "tree" if (ROOT / inside).is_dir() else "blob"
        return f"]({address}/{kind}/main/{inside})"

    # Not the badge: its picture would be loaded from elsewhere.
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
    import json

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


def page(notebook: nbformat.NotebookNode, name: str, docs: Path, names: set[str], address: str) -> str:
    """The Markdown of an executed notebook; its pictures and frames go to ``docs/files/NAME``."""
    parts, pictures = [], 0
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            text = rewrite_links(math_to_mathml(cell.source), "notebooks", names, address)
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


def build(paths: list[Path], output: Path) -> None:
    """Run the notebooks and write the site.

    Args:
        paths: of the notebooks.
        output: folder of the site; its contents are replaced.
    """
    import mkdocs.commands.build
    import mkdocs.config
    from pygments.formatters import HtmlFormatter

    address = repository(ROOT)
    names = {path.stem for path in paths}
    with tempfile.TemporaryDirectory() as temporary:
        docs = Path(temporary) / "docs"
        (docs / "assets").mkdir(parents=True)
        (docs / "assets" / "equilib.css").write_text(STYLE)
        (docs / "assets" / "equilib.js").write_text(SCRIPT)
        light, dark = (
            HtmlFormatter(style=style).get_style_defs(prefix)
            for style, prefix in (("default", ".codehilite"), ("github-dark", "[data-bs-theme=dark] .codehilite"))
        )
        (docs / "assets" / "code.css").write_text(f"{light}\n{dark}\n")
        nav = [{"Start": "index.md"}]
        before = os.environ.get("EQUILIB_FRAMES")
        os.environ["EQUILIB_FRAMES"] = "1"  # the kernels inherit it
        try:
            for path in paths:
                print(f"running {path.name}", flush=True)
                (docs / f"{path.stem}.md").write_text(page(execute(path), path.stem, docs, names, address))
                number, _, words = path.stem.partition("_")
                nav.append({f"{number} {words.replace('_', ' ')}": f"{path.stem}.md"})
        finally:
            os.environ.pop("EQUILIB_FRAMES") if before is None else os.environ.update(EQUILIB_FRAMES=before)
        for source, target, folder in (
            (ROOT / "README.md", "index.md", ""),
            (ROOT / "notebooks" / "glossary.md", "glossary.md", "notebooks"),
        ):
            (docs / target).write_text(rewrite_links(math_to_mathml(source.read_text()), folder, names, address))
        (docs / "turning_field.gif").write_bytes((ROOT / "notebooks" / "turning_field.gif").read_bytes())
        nav.append({"glossary": "glossary.md"})
        settings = Path(temporary) / "mkdocs.yml"
        settings.write_text(CONFIG.format(docs=docs, site=Path(output).resolve(), nav=nav))
        mkdocs.commands.build.build(mkdocs.config.load_config(str(settings)))


def main(arguments: list[str]) -> int:
    """Build the site; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m equilib.site", description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("notebooks", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    build(options.notebooks, options.output)
    print(f"open {options.output}/index.html, or serve it: python -m http.server --directory {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
