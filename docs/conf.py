"""Sphinx: `make docs` builds the site, with warnings as errors."""

import lightning_cim

project = "lightning_cim"
author = "The lightning_cim developers"
version = release = lightning_cim.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"lightning_cim {version}"
html_static_path: list[str] = []

myst_enable_extensions = ["fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def _plain_bars(app, what, name, obj, options, lines):  # noqa: ANN001, ANN202
    """Docstrings write |w| and (columns, *shape) as people do; reStructuredText would read markup."""
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [part.replace("|", r"\|").replace(" *shape", r" \*shape") for part in parts[::2]]
        lines[number] = "``".join(parts)


def setup(app):  # noqa: ANN001, ANN201
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _plain_bars, priority=100)
