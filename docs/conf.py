"""The documentation site: `make docs` writes it to docs/_build."""

import cankd_mm  # noqa: F401  registers, and provides mmcv's operators for autodoc

project = 'cankd-mm'
release = cankd_mm.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
html_theme = 'furo'
html_title = f'cankd-mm {release}'
html_theme_options = dict(source_repository='', navigation_with_keys=True)
exclude_patterns = ['_build', 'results/*.md']
myst_enable_extensions = ['dollarmath', 'colon_fence']
myst_heading_anchors = 3
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'
napoleon_google_docstring = True
napoleon_use_rtype = False
