# SPDX-License-Identifier: Apache-2.0
"""Sphinx builds the site from these pages: ``make docs``. A warning is an error."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import memcg  # noqa: E402

for name in memcg.__all__:  # autodoc does not see what is read at its first use
    getattr(memcg, name)

project = "memcg"
author = copyright = "the memcg authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**/.*"]
html_theme = "furo"
html_title = "memcg"
html_static_path = ["static"]
html_css_files = ["site.css"]
highlight_language = "none"  # a block that names no language is not Python
myst_heading_anchors = 4
myst_links_external_new_tab = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = False


def _name_files(app, document):
    """Let a link to a file of the checkout that is no page of the site be its text alone."""
    from docutils import nodes
    from sphinx.addnodes import pending_xref

    page, docs = Path(app.env.doc2path(app.env.docname)), Path(app.srcdir)
    for link in list(document.findall(pending_xref)):
        target = (page.parent / link["reftarget"]).resolve()
        exists = target.exists() or target.with_suffix(".md").exists()
        if exists and ROOT in target.parents and docs not in target.parents:
            link.replace_self(nodes.inline("", link.astext()))


def setup(app):
    app.connect("doctree-read", _name_files)
