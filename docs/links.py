"""Hook of MkDocs: bring the files of the repository that pages link to into the site.

A page links to `../benchmarks/tmaze.md` or `../minrl/scan.py`, as a forge shows it. The site holds only docs/, so those
files become part of it under the same paths without `../`: Markdown as pages, everything else as it is.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_TARGET = re.compile(r"\]\(\.\./([^)#\s]+)")
# Linked from pages that are linked.
RESULTS = ("*.md", "*.png", "*.json", "*.csv")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the results of the benchmarks and every file that a page links to."""
    linked = {path for pattern in RESULTS for path in (ROOT / "benchmarks").rglob(pattern)}
    for page in files.documentation_pages():
        linked |= {ROOT / target for target in _TARGET.findall(page.content_string)}
    for path in sorted(linked):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and not name.startswith("docs/"):
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between docs/ and the rest of the repository to the files' places in the site."""
    if page.file.src_uri.startswith("api/"):
        return markdown
    away, here = ("](../docs/", "](../") if "/" in page.file.src_uri else ("](../", "](")
    return markdown.replace(away, here)
