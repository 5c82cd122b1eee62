"""What the README says is what the repository holds."""

import re

from mmengine.config import Config
from mmengine.fileio import load

from cankd_mm.demo import report
from tests.conftest import ROOT

TEXT = (ROOT / 'README.md').read_text()


def test_figures_are_those_that_were_measured():
    results = load(str(ROOT / 'docs' / 'results' / 'digits.json'))
    assert report.table(results['rows']) in TEXT


def test_links_lead_somewhere():
    links = re.findall(r'\]\((?!http)([^)#]+)\)', TEXT)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_pair_in_ten_lines_is_the_one_that_ships(tmp_path):
    """The README's example differs from the shipped config in the shortened address alone."""
    example = next(block for block in re.findall(r'```python\n(.*?)```', TEXT, re.S) if '_delete_' in block)
    assert len(example.strip().splitlines()) <= 10
    path = tmp_path / 'example.py'
    path.write_text(example.replace("'../_base_", f"'{ROOT}/configs/_base_"))
    ours = Config.fromfile(str(path))
    shipped = Config.fromfile(str(ROOT / 'configs/detection/cankd_retinanet-r101_retinanet-r50_2x_coco.py'))
    assert ours.model.teacher_ckpt.split('/')[-1] == shipped.model.teacher_ckpt.split('/')[-1]
    ours.model.teacher_ckpt = shipped.model.teacher_ckpt
    assert ours.to_dict() == shipped.to_dict()
