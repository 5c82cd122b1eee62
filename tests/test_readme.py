"""What the README says is what the repository holds."""

import json
import re

import pytest
from mmengine.config import Config
from mmengine.fileio import load

from benchmarks import growth, loss, operators, step, teachers
from cankd_mm.compare import results_table
from cankd_mm.compare.report import blocks_table
from cankd_mm.demo import report
from cankd_mm.pair import write_pair
from tests.conftest import ROOT

TEXT = (ROOT / 'README.md').read_text()


def test_figures_are_those_that_were_measured():
    results = load(str(ROOT / 'docs' / 'results' / 'digits.json'))
    assert report.table(results['rows']) in TEXT


def test_comparisons_are_those_that_were_measured():
    page = (ROOT / 'docs' / 'comparison.md').read_text()
    stored = {path: load(str(path)) for path in (ROOT / 'docs' / 'results').glob('*.json')}
    comparisons = {path: results for path, results in stored.items() if 'reference' in results}
    assert len(comparisons) >= 6
    for path, results in comparisons.items():
        assert results_table(results) in page, path.name
        assert results_table(results) in TEXT or not path.name.startswith('compare_'), path.name
        # As `tools/compare.py docs/results/NAME.json` lays it out.
        assert results_table(results) in path.with_suffix('.md').read_text() and path.with_suffix('.png').exists()
    assert blocks_table(load(str(ROOT / 'docs' / 'results' / 'attention_digits-detection.json'))) in page


def test_pages_of_three_pairs_say_what_was_measured():
    page = (ROOT / 'docs' / 'show.md').read_text()
    for pair in load(str(ROOT / 'docs' / 'results' / 'show.json')).values():
        for level, block in zip(pair['levels'][1:], pair['blocks'][1:]):
            assert ' | '.join([level[0], *level[2:], block[2]]) in page
        for _, figure, *_ in pair['models'][1:]:
            assert figure in page


@pytest.mark.parametrize('page', ['README.md', *(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md'))])
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\((?!http)([^)#]+)(?:#[^)]*)?\)', (ROOT / page).read_text())
    assert links
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_benchmarks_are_those_that_were_measured():
    text = (ROOT / 'docs' / 'benchmarks.md').read_text()
    for module, key in ((loss, 'results'), (growth, 'curves'), (step, 'results'), (teachers, 'results')):
        name = module.__name__.split('.')[-1]
        assert module.table(load(str(ROOT / 'docs' / 'results' / f'benchmark_{name}.json'))[key]) in text
    for path in (ROOT / 'docs' / 'results').glob('benchmark_operators*.json'):
        assert operators.table(load(str(path))['results']) in text


def test_pair_is_the_one_that_the_command_writes(tmp_path, monkeypatch):
    """But for the address, which the README shortens."""
    example = next(block for block in re.findall(r'```python\n(.*?)```', TEXT, re.S) if '_delete_' in block)
    command = next(line for line in TEXT.splitlines() if line.startswith('cankd pair ')).split('#')[0].split()
    monkeypatch.chdir(tmp_path)
    write_pair(*command[2:4], command[-1])
    written = (tmp_path / command[-1]).read_text()
    assert re.sub(r"'https.*?/'\n    '", "'https://.../", written) == example


def test_what_the_pair_and_the_paper_differ_in_is_said():
    shipped = Config.fromfile(str(ROOT / 'configs/detection/cankd_retinanet-r101_retinanet-r50_2x_coco.py'))
    setting = next(line for line in TEXT.splitlines() if line.startswith('`optim_wrapper = ')).strip('`.')
    cfg = Config.fromstring(setting, '.py')
    assert cfg.optim_wrapper.optimizer.lr == shipped.optim_wrapper.optimizer.lr
    assert cfg.optim_wrapper.clip_grad == shipped.optim_wrapper.clip_grad


def test_sweep_of_the_zoos_is_the_one_that_was_run():
    from tests.sweep import table

    lines = [json.loads(line) for line in (ROOT / 'docs' / 'results' / 'zoo.jsonl').open()]
    assert table(lines) in (ROOT / 'docs' / 'zoo.md').read_text()
