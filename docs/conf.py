"""The documentation site: `make docs` writes it to docs/_build."""

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

import cankd_mm

project = 'cankd-mm'
release = cankd_mm.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build', 'results/*.md']
html_theme = 'furo'
html_title = f'cankd-mm {release}'
html_math_renderer = 'mathml'
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
autodoc_typehints = 'none'
napoleon_use_rtype = False


def setup(app):
    """Write formulas as MathML, which a browser shows by itself: MathJax would be fetched from the network."""

    def inline(self, node):
        self.body.append(convert(node.astext()))
        raise SkipNode

    def block(self, node):
        formula = convert(node.astext(), display='block')
        self.body.append(f'<div style="overflow: auto hidden; margin: 1em 0">{formula}</div>')
        raise SkipNode

    app.add_html_math_renderer('mathml', (inline, None), (block, None))
