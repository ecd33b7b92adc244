"""How is the documentation built? With Sphinx: ``sphinx-build -W -n docs docs/_build``.

Nothing is loaded from elsewhere, neither while the pages are built nor while they are read.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from jwt_middleware import __version__  # noqa: E402  # the package is found beside this folder, installed or not

project = "asgi-jwt-middleware"
author = "The asgi-jwt-middleware authors"
project_copyright = author
release = version = __version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = None
nitpicky = True
# Only references to our own public names are checked: other projects' inventories would have to be downloaded, and a
# type in a signature is named by the module that defines it.
PUBLIC = r"jwt_middleware(\.(events|fastapi|issuing|mcp|testing))?\.[A-Za-z_]+"
nitpick_ignore_regex = [("py:.*", rf"(?!{PUBLIC}$).*")]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
maximum_signature_line_length = 80

# Addresses of other sites: tox -e links.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors = False

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sourcelink = False
