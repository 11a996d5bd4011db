"""What mkdocs adds to docs/: a page of the API for each package, and the tables of results/."""

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "bthub"
# The service has pages, not an API; remote code is read by transformers, and documents itself there.
LEFT_OUT = {"practice"}
REMOTE = {"mlp_head", "resunet", "simple_cnn", "hub_repo"}


def api_pages() -> dict[str, str]:
    """The Markdown of `api/<package>.md`, for each package that has a docstring."""
    pages = {"errors": "# Errors\n\n::: bthub.errors\n"}
    for package in sorted(path.parent for path in SOURCE.glob("*/__init__.py") if path.parent.name not in LEFT_OUT):
        modules = [
            ".".join(("bthub", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
            for path in sorted(package.rglob("*.py"))
            if not REMOTE & set(path.relative_to(package).parts) and path != package / "__init__.py"
        ]
        words = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
        blocks = "\n\n".join(f"::: {module}" for module in modules)
        pages[package.name] = f"# bthub.{package.name}\n\n{words}\n\n{blocks}\n"
    return pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for package, text in api_pages().items():
        files.append(File.generated(config, f"api/{package}.md", content=text))
    for path in sorted((REPOSITORY / "results").glob("*.md")):
        files.append(File.generated(config, f"results/{path.name}", content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between docs/ and results/ lead to the pages that are made of them."""
    if page.file.src_uri.startswith("results/"):
        return markdown.replace("](../docs/", "](../")
    return re.sub(r"\]\(\.\./results/", "](results/", markdown) if "/" not in page.file.src_uri else markdown
