"""How Sphinx builds these pages: ``sphinx-build -W docs build/docs``."""

from jaxdreamer import __version__

project, author, release = "jaxdreamer", "the jaxdreamer developers", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_theme, html_title = "furo", "jaxdreamer"
exclude_patterns = ["examples"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
copybutton_prompt_text = "$ "
# Files that pages link to and that are no pages: results in JSON, modules, the README.
myst_url_schemes = ("http", "https", "mailto")
suppress_warnings = ["myst.xref_missing"]
