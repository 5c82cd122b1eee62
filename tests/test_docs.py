"""What README and site say is what the repository holds; what they tell to run is run in `test_commands.py`."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS
from torch import nn

import cankd_mm
import cankd_mm.engine
import cankd_mm.models
from benchmarks import growth, loss, operators, step, teachers
from cankd_mm.__main__ import COMMANDS
from cankd_mm.apis import train
from cankd_mm.apis.pair import write_pair
from cankd_mm.experiments.report import blocks_table, results_table
from cankd_mm.models.distillers.recording import recording
from cankd_mm.show.hook import DistillVisualizationHook
from tests.conftest import ROOT

DOCS = ROOT / 'docs'
README = (ROOT / 'README.md').read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *DOCS.glob('*.md'), *DOCS.glob('guides/*.md'))
}


def blocks(language):
    """The blocks of code in a language: page, and text without indentation."""
    for page, text in PAGES.items():
        for indent, block in re.findall(rf'^( *)```{language}\n(.*?)^ *```', text, re.S | re.M):
            yield page, '\n'.join(line[len(indent) :] for line in block.splitlines()) + '\n'


# Commands in running text; those in blocks are run in `test_commands.py`.
IN_THE_TEXT = sorted({span for text in PAGES.values() for span in re.findall(r'`((?:cankd|make) [^`]+)`', text)})


def example_of(part):
    return ''.join(re.findall(r'^ *(?:>>>|\.\.\.) ?(.*\n)', part.__doc__, re.M))


def test_version_is_the_one_that_is_described():
    assert re.search(r'^## (\S+) \(', (ROOT / 'CHANGELOG.md').read_text(), re.M)[1] == cankd_mm.__version__
    assert load(str(ROOT / 'CITATION.cff'), file_format='yaml')['version'] == cankd_mm.__version__


def test_readme_fits_on_two_screens():
    assert len(README.encode()) <= 8000


@pytest.mark.parametrize('command', IN_THE_TEXT)
def test_commands_in_the_text_are_those_that_there_are(command):
    name, *words = shlex.split(re.sub(r' ?\.\.\.', '', command))
    if name == 'make':
        assert re.search(rf'^{words[0]}:', (ROOT / 'Makefile').read_text(), re.M)
    else:
        (arguments,) = (arguments for known, (_, arguments) in COMMANDS.items() if known.__name__ == words[0])
        options = {option for options, _ in arguments for option in options}
        assert {word for word in words if word.startswith('--')} <= options


@pytest.mark.parametrize(
    'page, block', blocks('python'), ids=[f'{page}-{i}' for i, (page, _) in enumerate(blocks('python'))]
)
def test_python_is_python_and_a_config_is_a_config(page, block):
    ast.parse(block)
    if '_base_ = ' in block and '...' not in block and page != 'docs/guides/own.md':  # see `test_own.py`
        cfg = Config.fromstring(block, '.py')
        assert 'model' in cfg


@pytest.mark.slow
def test_loss_runs_with_torch_alone(tmp_path):
    (example,) = (block for page, block in blocks('python') if page == 'docs/guides/plain_pytorch.md')
    (tmp_path / 'train.py').write_text(f"{example}\nassert distill.can.bn.weight.any(), 'it has learnt'\n")
    program = [sys.executable, ROOT / 'tests' / 'torch_alone.py', tmp_path / 'train.py']
    subprocess.run(program, env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=True)


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r'\]\((?!http)([^)#]+)(?:#[^)]*)?\)', PAGES[page]):
        assert (ROOT / page).parent.joinpath(link).exists(), link
    for link in re.findall(r'\{include\} (\S+)', PAGES[page]):
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_every_page_is_in_the_table_of_contents():
    listed = set(re.findall(r'^([\w/]+)$', (DOCS / 'index.md').read_text(), re.M))
    pages = {str(path.relative_to(DOCS).with_suffix('')) for path in (*DOCS.glob('*.md'), *DOCS.glob('guides/*.md'))}
    assert pages - {'index'} <= listed


def test_everything_registered_is_in_the_reference_with_a_config_that_builds():
    page = PAGES['docs/api.md']
    for module in (cankd_mm.models, cankd_mm.engine):
        for name in module.__all__:
            part = getattr(module, name)
            if not isinstance(part, type):
                continue
            assert f'.{name}\n' in page, name
            assert f"'{name}'" in example_of(part) or f'{name}(' in example_of(part), name


@pytest.mark.slow
def test_examples_of_hooks_loop_and_runner_run(pairs, tmp_path):
    """All of them in one training; the visualizer's backend, of which TensorBoard is a package of its own, left out."""
    found = {}
    components = [getattr(cankd_mm.engine, name) for name in cankd_mm.engine.__all__]
    for component in (*components, DistillVisualizationHook):
        space = {}
        exec(example_of(component), space)  # noqa: S102
        for key in ('runner_type', 'val_cfg', 'default_hooks', 'custom_hooks'):
            value = space.get(key)
            if isinstance(value, list):
                found[key] = [*found.get(key, []), *value]
            elif isinstance(value, dict):
                found[key] = {**found.get(key, {}), **value}
            elif value:
                found[key] = value
    hooks = [c for c in [*components, DistillVisualizationHook] if issubclass(c, Hook)]
    assert len(found['custom_hooks']) + len(found['default_hooks']) == len(hooks) >= 6
    text = ''.join(f'{key} = {value!r}\n' for key, value in found.items())
    (tmp_path / 'config.py').write_text(f"_base_ = '{pairs['segmentation']}'\n{text}")
    runner = train(str(tmp_path / 'config.py'), work_dir=str(tmp_path / 'run'), cfg_options={'train_cfg.max_epochs': 1})
    assert {type(hook).__name__ for hook in runner.hooks} > {hook['type'] for hook in found['custom_hooks']}


class Pyramid(nn.Module):
    def forward(self, x):
        return tuple(x[..., :: 2**i, :: 2**i].contiguous() for i in range(4))


class Tiny(nn.Module):
    """What the examples distil: a neck of four levels, and a stage of a backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(OrderedDict(layer4=nn.Conv2d(3, 4, 1)))
        self.neck = Pyramid()

    def extract_feat(self, inputs):
        return self.neck(self.backbone(inputs))


PARTS = [getattr(cankd_mm.models, name) for name in cankd_mm.models.__all__]
DISTILLED = [part for part in PARTS if isinstance(part, type) and re.search('^distiller = ', example_of(part), re.M)]


@pytest.mark.parametrize('part', DISTILLED)
def test_examples_of_distillers_losses_and_connectors_run(part):
    space = {part.__name__: part}
    text, _, module = example_of(part).partition('# As a plain module.\n')
    exec(text, space)  # noqa: S102
    student, teacher, image = Tiny(), Tiny(), torch.randn(2, 3, 32, 32)
    with DefaultScope.overwrite_default_scope('mmrazor'):
        distiller = MODELS.build(space['distiller'])
        distiller.prepare_from_student(student)
        distiller.prepare_from_teacher(teacher)
    assert any(type(built) is part for built in distiller.modules()), f'the example has no {part.__name__}'
    with torch.no_grad(), recording(distiller.teacher_recorders, teacher, 'teacher'):
        teacher.extract_feat(image)
    with recording(distiller.student_recorders, student, 'student'):
        student.extract_feat(image)
    assert sum(distiller.compute_distill_losses().values()) > 0
    if module:
        features = dict(student_feature=torch.randn(1, 256, 4, 4, requires_grad=True))
        features['teacher_feature'] = torch.randn(1, 256, 4, 4)
        exec(module, {**space, **features})  # noqa: S102
        assert features['student_feature'].grad.any()


def test_stored_results_are_laid_out_as_they_are():
    """As `cankd compare docs/results/NAME.json` does, whose tables the pages include."""
    stored = {path: load(str(path)) for path in (DOCS / 'results').glob('*.json')}
    experiments = {path: results for path, results in stored.items() if 'reference' in results}
    assert len(experiments) >= 8
    included = ''.join(PAGES[f'docs/{page}.md'] for page in ('comparison', 'demo', 'guides/unlabeled'))
    for path, results in experiments.items():
        assert results_table(results) + '\n' == path.with_suffix('.md').read_text(), path.name
        assert f'results/{path.stem}.md' in included and path.with_suffix('.png').exists()
        of_blocks = path.with_name(f'{path.stem}_blocks.md')
        assert not of_blocks.exists() or of_blocks.read_text() == blocks_table(results) + '\n'


def test_readme_shows_what_was_measured():
    """The means of the data sets, in the order of the table's rows; the student alone for as much time has no file."""
    rows = re.search(r'<!-- table -->(.*)<!-- end -->', README, re.S)[1].strip().splitlines()[2:]
    figures = [[cell.strip() for cell in row.split('|')[3:7]] for row in rows]
    names = ['student alone', None, 'cankd', 'recommended', 'both-10-frozen', 'both-0', 'both-0-many', 'teacher']
    few = {'both-10-frozen': None, 'both-0-many': None}
    others = {'both-0-many': None}, {}, few, {**few, 'both-0': 'no-labels-bccd'}
    stems = 'labels_digits-detection labels_digits-segmentation labels_nuclei-detection unlabeled_blood-cells'
    for column, stem in enumerate(stems.split()):
        stored = load(str(DOCS / 'results' / f'{stem}.json'))
        for name, shown in zip(names, figures):
            name = others[column].get(name, name)
            values = [run['value'] for run in stored['runs'] if run['method'] == name] or [stored['teacher']]
            assert name is None or shown[column] == f'{sum(values) / len(values):.1f}', name


def test_pages_of_three_pairs_say_what_was_measured():
    page = (DOCS / 'show.md').read_text()
    for pair in load(str(DOCS / 'results' / 'show.json')).values():
        for level, block in zip(pair['levels'][1:], pair['blocks'][1:]):
            assert ' | '.join([level[0], *level[2:], block[2]]) in page
        for _, figure, *_ in pair['models'][1:]:
            assert figure in page


def test_benchmarks_are_those_that_were_measured():
    text = PAGES['docs/benchmarks.md']
    for module in (loss, growth, step, teachers, operators):
        paths = list((DOCS / 'results').glob(f'benchmark_{module.__name__.split(".")[-1]}*.json'))
        for path in paths:
            assert module.table(load(str(path))['curves' if module is growth else 'results']) in text, path.name
        assert paths, module.__name__


def test_pair_is_the_one_that_the_command_writes(tmp_path, monkeypatch):
    """But for the address, which the README shortens."""
    example = next(block for page, block in blocks('python') if page == 'README.md')
    command = re.search(r'^cankd pair [^#\n]*', README, re.M)[0].split()
    monkeypatch.chdir(tmp_path)
    write_pair(*command[2:4], command[-1])
    written = (tmp_path / command[-1]).read_text()
    assert re.sub(r"'https.*?/'\n    '", "'https://.../", written) == example


def test_what_the_pair_and_the_paper_differ_in_is_said():
    shipped = Config.fromfile(str(ROOT / 'configs/detection/cankd_retinanet-r101_retinanet-r50_2x_coco.py'))
    setting = next(line for line in PAGES['docs/no_better.md'].splitlines() if '`optim_wrapper = ' in line)
    cfg = Config.fromstring(re.search('`(.*)`', setting)[1], '.py')
    assert cfg.optim_wrapper.optimizer.lr == shipped.optim_wrapper.optimizer.lr
    assert cfg.optim_wrapper.clip_grad == shipped.optim_wrapper.clip_grad


def test_sweep_of_the_zoos_is_the_one_that_was_run():
    from tests.sweep import table

    lines = load(str(DOCS / 'results' / 'zoo.json'))
    assert table(lines) in PAGES['docs/zoo.md']
