"""The command ``cankd``, and the tools in ``tools/``, which are its commands one by one.

What takes long to import is imported when a command runs, so that help is there in a moment.
"""

import argparse
import os
import signal
import sys
import warnings
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

import cankd_mm
from cankd_mm.config.options import parse_options
from cankd_mm.config.paths import default_work_dir, folder
from cankd_mm.errors import one_sentence_errors

Command = Callable[..., object]
# Every command with its line in the help and its arguments, in the order of the functions below.
COMMANDS: Dict[Command, Tuple[str, Tuple[tuple, ...]]] = {}

_EPILOG = """\
CONFIG is a file, or as in cankd_mm::detection/cankd_retinanet-r101_retinanet-r50_2x_coco.py
Several GPUs: torchrun --nproc_per_node=8 --no-python cankd train CONFIG --launcher pytorch
"""


def _command(summary: str, *arguments: tuple) -> Callable[[Command], Command]:
    """Make a command of the function that runs it with the values of its arguments; its docstring is the help."""

    def add(run: Command) -> Command:
        COMMANDS[run] = summary, arguments
        return run

    return add


def _arg(*names: str, **options: object) -> tuple:
    return names, options


class _CfgOptions(argparse.Action):
    def __call__(self, parser, namespace, words, option_string=None) -> None:
        with one_sentence_errors():
            setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **parse_options(words)})


class _Old(argparse.Action):
    """An option's spelling of before 0.3, which is taken until 0.4."""

    def __init__(self, now: str, **options: object) -> None:
        super().__init__(**options)
        self._now = now

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        sys.stderr.write(f'warning: {option_string} is {self._now} now, and goes with 0.4.\n')
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)


def _old(name: str, now: str, **options: object) -> tuple:
    return _arg(name, action=partial(_Old, now=now), help=argparse.SUPPRESS, **options)


_switch = partial(_arg, action='store_true')
_CONFIG = _arg('config', help='config file, or package::path')
_resume = 'go on from this checkpoint, or from the last in the work dir'
_searched = 'weight, levels, init, the default; or level-weights, mode, KEY=LOW..HIGH[:log], KEY=A,B,C'
_tasks = ['detection', 'segmentation']
_overrides = 'override entries of the config: model.teacher_ckpt=a.pth "model.distiller.levels=[0,2]"'
_CFG_OPTIONS = _arg('--cfg-options', nargs='+', action=_CfgOptions, metavar='KEY=VALUE', help=_overrides)
_old_check = partial(_old, '--check', nargs=0, const=True, default=False)
_TEACHER_EVAL = _arg('--teacher-eval', type=int, default=0, metavar='N', help='evaluate the teacher on N images first')
_launchers = dict(choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', metavar='NAME')
_RUNNER = (
    _arg('--work-dir', metavar='DIR', help='folder of logs and checkpoints'),
    _CFG_OPTIONS,
    _arg('--launcher', help='what starts the processes: none, the default, pytorch, slurm or mpi', **_launchers),
    # torch.distributed.launch passes --local-rank from torch 2.0 on, and --local_rank before.
    _arg('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS),
)
_PLACE = (
    _arg('--jobs', type=int, metavar='N', help='trainings at once; default: one per GPU or core'),
    _arg('--executor', choices=['local', 'slurm'], default='local', metavar='E', help='local, the default, or slurm'),
    _arg('--partition', metavar='P', help='of Slurm'),
    _arg('--slurm', nargs='+', default=[], metavar='OPT', help='sbatch options: account=A time=60 gres=gpu:1'),
)


def _with_local_rank(arguments: dict) -> dict:
    """Set the local rank that the launcher gave, which is no argument of what runs."""
    os.environ.setdefault('LOCAL_RANK', str(arguments.pop('local_rank')))
    return arguments


def _place(root: object, jobs: Optional[int], executor: str, partition: Optional[str], slurm: list) -> object:
    """Where trainings run."""
    if executor == 'local':
        from cankd_mm.experiments.jobs import Local

        return Local(jobs)
    _require('submitit', '--executor slurm goes through submitit')
    from cankd_mm.experiments.slurm import Slurm

    return Slurm(Path(root) / 'slurm', jobs, partition, dict(word.split('=', 1) for word in slurm))


def _start() -> None:
    """Register everything, which takes seconds, so that lists and tables of what is stored do without."""
    try:
        cankd_mm.register()
    except ImportError as e:
        sys.exit(f'error: {e}')


def _require(package: str, why: str) -> None:
    if find_spec(package) is None:
        sys.exit(f'error: {why}, which is not installed: pip install {package}.')


def _say(text: str) -> None:
    sys.stdout.write(f'{text}\n')


def _check(**arguments) -> None:
    """Say what a check has found, of several processes by the first."""
    from mmengine.dist import is_main_process

    from cankd_mm.apis import check

    lines = check(**arguments)
    if is_main_process():
        _say('\n'.join(lines))


_TRAINING = (
    _CONFIG,
    _switch('--amp', help='train with automatic mixed precision'),
    _switch('--auto-scale-lr', help='scale the learning rate to the batch size'),
    _arg('--resume', nargs='?', const='auto', metavar='PTH', help=_resume),
    _TEACHER_EVAL,
    *_RUNNER,
)


@_command(
    'train a pair, or any config of the two libraries',
    *_TRAINING,
    _switch('--wait', help='wait for a training that runs in the work dir'),
    _old_check(now='the command check'),
)
def train(check, wait, **arguments) -> None:
    """Train what a config describes: a teacher-student pair, or a plain detector or segmentor."""
    _start()
    from cankd_mm.apis import train

    arguments = _with_local_rank(arguments)
    _check(**arguments) if check else train(wait=wait, **arguments)


@_command(
    'evaluate a student, a teacher, or a plain model',
    _CONFIG,
    _arg('checkpoint', nargs='?', help='checkpoint file; not needed with --teacher'),
    _switch('--teacher', help='evaluate the teacher with its own checkpoint'),
    _arg('--against-teacher', metavar='IMAGES', help="rate the student by the teacher's predictions on these images"),
    _arg('--out', metavar='PKL', help='write the predictions to this .pkl file'),
    _switch('--tta', help='with test-time augmentation, as tta_model and tta_pipeline of the config say'),
    *_RUNNER,
)
def test(**arguments) -> None:
    """Evaluate the student of a pair, its teacher, or a plain model."""
    _start()
    from cankd_mm.apis import test

    test(**_with_local_rank(arguments))


@_command(
    'write a student for the plain library',
    _CONFIG,
    _arg('checkpoint', help='checkpoint of the distillation run'),
    _arg('--out', metavar='DIR', help='folder to write; defaults to `student` beside the checkpoint'),
    _old('--out-dir', '--out', dest='out'),
    _CFG_OPTIONS,
)
def export(config, checkpoint, out, cfg_options) -> None:
    """Write a distilled student as config and weights that plain MMDetection or MMSegmentation runs."""
    _start()
    from cankd_mm.apis import export_student

    _say('\n'.join(export_student(config, checkpoint, out, cfg_options)))


@_command('look at a training before it starts', *_TRAINING)
def check(**arguments) -> None:
    """Look at all that a training would use (data, weights, features, losses), and say what is wrong or doubtful.

    The last line is the verdict: ready or doubtful with status 0, or the error with status 1. Nothing is written.
    """
    _start()
    _check(**_with_local_rank(arguments))


@_command(
    'write the config of a pair of your own',
    _arg('teacher', help='name of a zoo model, config file, or package::path'),
    _arg('student', help='the same of the student'),
    _arg('--teacher-ckpt', metavar='PTH', help="the teacher's checkpoint, where it is no zoo model's"),
    _arg('--data', metavar='CONFIG', help='config of the data set to train on, where it is another'),
    _arg('--unlabeled', metavar='IMAGES', help='train on a folder, list or COCO file of images, without their labels'),
    _arg('--unlabeled-val', metavar='IMAGES', help="validate on these images, with the teacher's predictions as truth"),
    _switch('--recommended', help='with the settings that measured best'),
    _arg('--out', metavar='FILE', help='defaults to cankd_TEACHER_STUDENT.py'),
    _old_check(now='the command check, on the config that is written'),
)
def pair(teacher, student, out, check, **options) -> None:
    """Write the config of a teacher-student pair, and say what was chosen and why."""
    _start()
    from cankd_mm.apis.pair import write_pair
    from cankd_mm.models.utils import quiet

    out = out or f'cankd_{Path(teacher).stem}_{Path(student).stem}.py'.replace(':', '-')
    with quiet(), redirect_stdout(StringIO()), warnings.catch_warnings():  # of pycocotools
        warnings.simplefilter('ignore')
        lines = write_pair(teacher, student, out, **options)
    _say('\n'.join([*lines, '', Path(out).read_text(encoding='utf-8').rstrip()]))
    if check:
        _say('')
        _check(config=out)


@_command(
    'label images by a teacher, as data to train on',
    _arg('teacher', help="zoo model, config file, package::path, or a pair's config"),
    _arg('images', help='folder, text file with a path in each line, or COCO file'),
    _arg('--out', required=True, metavar='DIR', help='folder to write; what was interrupted there goes on'),
    _arg('--teacher-ckpt', metavar='PTH', help="the teacher's checkpoint, where it is no zoo model's"),
    _arg('--val', metavar='CONFIG', help='config whose validation data sets the thresholds, if not its own'),
    _arg('--threshold', type=float, metavar='X', help='score from which on predictions of all classes count'),
    _switch('--tta', help='with test-time augmentation'),
    _arg('--batch-size', type=int, metavar='N', help='images at once; defaults to 8 on a GPU, 2 on a processor'),
)
def label(**arguments) -> None:
    """Label images by a teacher: a data set that any training of the two libraries takes, with a table and a sheet."""
    _start()
    from cankd_mm.apis.label import label
    from cankd_mm.apis.label_files import table
    from cankd_mm.show.sheet import write_sheet

    labels, out = label(**arguments), Path(arguments['out'])
    _say(f'\n{table(labels)}\n\nThe data: {out / "data.py"}\nThe sheet: {write_sheet(out, labels)}')


@_command(
    'compare CanKD with other methods on a pair',
    _arg('pair', nargs='+', help='config of a pair; or results.json to lay out again, several in one table'),
    _arg('--methods', nargs='+', default=[], metavar='CFG', help='configs of what further methods change'),
    _arg(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N', help='seeds of every method; defaults to 0 1 2'
    ),
    _arg('--work-dir', metavar='DIR', help='defaults to work_dirs/compare/<name of the pair>'),
    *_PLACE,
    _switch('--no-train', help='lay out what is done already, and train nothing'),
    _switch('--no-longer', help='without the student alone for as much time'),
    _CFG_OPTIONS,
)
def compare(pair, methods, seeds, work_dir, no_train, no_longer, cfg_options, **place) -> None:
    """Train a pair alone, with CanKD and with other methods over several seeds, and write one table."""
    from cankd_mm.experiments.report import read_results, tables, write_report

    files = [path for path in pair if path.endswith('.json') and Path(path).is_file()]
    stored = {path: found for path in files if 'runs' in (found := read_results(Path(path)))}
    pair, *others = pair
    if others:
        from cankd_mm.experiments.joint import joint_table

        if len(stored) <= len(others):
            sys.exit('error: several results.json make one table, and a comparison is of one pair: give either.')
        _say(joint_table(stored))
        return
    if stored:
        _say(write_report(stored[pair], Path(pair).parent, Path(pair).stem))
        return
    _start()
    from cankd_mm.experiments.compare import compare

    root = work_dir or default_work_dir(pair, 'compare')
    place = _place(root, **place)
    results = compare(pair, methods, seeds, work_dir, place, cfg_options, not no_train, not no_longer)
    _say(f'\n{tables(results)}')


@_command(
    'search for weight, levels and the like',
    _CONFIG,
    _arg('--search', nargs='+', default=['weight', 'levels', 'init'], metavar='WHAT', help=_searched),
    _arg('--trials', type=int, default=20, metavar='N', help='trials of the search; defaults to 20'),
    _arg('--hours', type=float, metavar='H', help='begin no trial after this time'),
    _arg('--seed', type=int, default=0, metavar='N', help='of every training; defaults to 0'),
    _arg('--storage', metavar='URL', help='database that several calls share'),
    _arg('--work-dir', metavar='DIR', help='defaults to work_dirs/tune/<name of the config>'),
    *_PLACE,
    _CFG_OPTIONS,
)
def tune(jobs, executor, partition, slurm, **arguments) -> None:
    """Search on the validation set for weight, levels, parts that start from the teacher, or any key of the config."""
    _require('optuna', 'cankd tune searches with Optuna')
    _start()
    from cankd_mm.experiments.tune import tune

    root = arguments['work_dir'] or default_work_dir(arguments['config'], 'tune')
    tuned = tune(place=_place(root, jobs, executor, partition, slurm), **arguments)
    _say(f'\n{tuned.read_text(encoding="utf-8")}\nThe page: {tuned.with_name("report.html")}')
    _say(f'The best of many was lucky, too; what it is worth: cankd compare {tuned} --seeds 11 12 13 14 15')


@_command(
    "reproduce a row of the paper's tables",
    _arg('row', nargs='?', help='number, config name or config path; left out, the rows are listed'),
    _switch('--dry-run', help='only say what is missing, and where to put it'),
    _old('--check', '--dry-run', dest='dry_run', nargs=0, const=True, default=False),
    _arg('--gpus', type=int, metavar='N', help='how many GPUs, 0 for the processor; defaults to all there are'),
    _arg('--teacher-ckpt', metavar='PTH', help="the teacher's, for rows without public weights"),
    _arg('--work-dir', metavar='DIR', help='folder of everything that is written'),
    _arg('--seed', type=int, metavar='N', help='defaults to one that MMEngine draws and logs'),
    _CFG_OPTIONS,
)
def reproduce(row, dry_run, gpus, teacher_ckpt, work_dir, seed, cfg_options) -> None:
    """Reproduce a row of the paper's tables: check what it needs, train, export, test in the plain library, report."""
    from cankd_mm.experiments.rows import find_row, load_rows

    rows = load_rows(folder('configs'))
    if row is None:
        for row in rows:
            figures = f'paper {row.paper}' if row.paper else f'ours {row.ours}' if row.ours else 'no figure'
            _say(f'{row.number or "-":18} {row.name:68} {row.metric} {figures}')
        return
    row = find_row(rows, row)
    _start()
    from cankd_mm.config.read import load_config
    from cankd_mm.experiments.reproduce import missing, reproduce, row_options

    if dry_run:
        options = row_options(teacher_ckpt, seed, cfg_options)
        lacking = missing(row, load_config(str(row.config), options, work_dir), gpus)
        _say('\n'.join(lacking or [f'{row.name} has all it needs.']))
        sys.exit(bool(lacking))
    result = reproduce(row, gpus, teacher_ckpt, work_dir, seed, cfg_options)
    others = f'paper {row.paper or "gives none"}, student alone {row.student.figure}, teacher {row.teacher.figure}'
    if result['deviation']:
        others = f"not the row's recipe: {result['deviation']}"
    _say(f'{row.name}: {result["metric"]} {result["value"]} ({others})')


@_command(
    'show what a student learnt, and where not',
    _CONFIG,
    _arg('checkpoint', help='checkpoint of its training'),
    _arg('--images', nargs='+', metavar='PATH', help='images to look at; defaults to some of the data'),
    _arg('--split', default='val', help='data that the images are of: val, the default, test or train'),
    _arg('-n', type=int, default=8, dest='count', metavar='N', help='how many images; defaults to 8'),
    _arg('--against', metavar='PTH', help='checkpoint of the student that was trained alone'),
    _arg('--at', nargs=2, type=float, metavar=('X', 'Y'), help='pixel of the image whose attention is shown'),
    _arg('--out', metavar='DIR', help='folder to write; defaults to `show` beside the checkpoint'),
    _switch('--no-eval', help='do not rate the models on the validation set'),
    _CFG_OPTIONS,
)
def show(no_eval, **arguments) -> None:
    """Write a page that shows what a student has learnt from its teacher, and where it has not."""
    _start()
    from cankd_mm.show.show import show

    _say(f'The page: {show(evaluate=not no_eval, **arguments)}')


@_command(
    "put all runs beside the paper's figures",
    _arg('folder', nargs='?', type=Path, default=Path('work_dirs'), help='defaults to work_dirs'),
)
def results(folder) -> None:
    """Gather the results and logs under a folder into one table beside the paper's, as Markdown and JSON."""
    from cankd_mm.experiments.rows import write_results

    table, written = write_results(folder)
    _say(f'{table}\n\nWritten to {" and ".join(map(str, written))}')


@_command(
    'show it on digits, with nothing to download',
    _arg('--work-dir', type=Path, metavar='DIR', help='folder of all results; defaults to work_dirs/demo-short'),
    _old('--root', '--work-dir', dest='work_dir', type=Path),
    _arg('--seeds', type=int, nargs='+', default=[0], metavar='N', help='seeds of the students; defaults to 0'),
    _switch('--controls', help='train the fair controls, too'),
    _switch('--quick', help='one short epoch each, in two minutes: figures mean nothing'),
    _switch('--full', help='all epochs, as for the figures of the documentation, in work_dirs/demo'),
    _arg(
        '--tasks',
        nargs='+',
        default=_tasks,
        choices=_tasks,
        metavar='TASK',
        help='detection, segmentation; defaults to both',
    ),
)
def demo(work_dir, seeds, controls, quick, full, tasks) -> None:
    """Show CanKD on scenes of handwritten digits: detection and segmentation, with nothing to download."""
    _start()
    from cankd_mm.demo.run import run_demo

    length = 'quick' if quick else 'full' if full else 'short'
    root = work_dir or Path('work_dirs', 'demo' if full else f'demo-{length}')  # that which the pairs in configs name
    table = run_demo(root, seeds, controls, length, tasks)
    _say(f'\n{table}\n\nThe tables as JSON: {root}/*/results.json\nThe picture: {root}/comparison.jpg')
    _say('\n'.join(f'What the student learnt: {root}/{task}_page/report.html' for task in tasks))
    if quick:
        _say('One short epoch each: the figures mean nothing.')


@_command('say what is installed, and what to repair')
def doctor() -> None:
    """Say what is installed, what was patched, and what to repair; also where the stack does not import."""
    from cankd_mm.stack.doctor import main

    sys.exit(main())


def main(command: Optional[Command] = None) -> None:
    """Run the command line of one of :data:`COMMANDS`, or by default of that which its first word names."""
    parser = _parser() if command is None else _complete(argparse.ArgumentParser(), command)
    found, unknown = parser.parse_known_args(_in_any_order(sys.argv[1:], 0 if command else 1))
    arguments = vars(found)
    parser = arguments.pop('parser')
    if unknown:
        parser.error(f'unrecognized arguments: {" ".join(unknown)}')
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated')  # MMEngine's, and setuptools is held back for it
    sys.path.append(os.getcwd())  # where a config's own modules are, as for `python -m` and in a notebook
    run, _ = arguments.pop('run'), arguments.pop('command', None)
    goes_on = run in (label, compare, tune, reproduce, demo)
    for number in (signal.SIGTERM, signal.SIGHUP) if goes_on else ():
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    try:
        with one_sentence_errors():
            run(**arguments)
    except KeyboardInterrupt:
        advice = {train: ': --resume goes on from the last checkpoint'}.get(run, '')
        sys.stderr.write(f'interrupted{": the same command goes on from here" if goes_on else advice}\n')
        raise SystemExit(128 + signal.SIGINT) from None  # as a shell has it


def _in_any_order(words: List[str], first: int) -> List[str]:
    """Put what stands behind the numbers of --seeds, which argparse takes for one of them, in front of all options."""
    start = words.index('--seeds') + 1 if '--seeds' in words else len(words)
    end = next((i for i in range(start, len(words)) if not words[i].isdigit()), len(words))
    after = next((i for i in range(end, len(words)) if words[i].startswith('-')), len(words))
    return [*words[:first], *words[end:after], *words[first:end], *words[after:]]


def _parser() -> argparse.ArgumentParser:
    what = 'Distil a small detector or segmentor from a strong one, with MMDetection and MMSegmentation.'
    lines = partial(argparse.RawDescriptionHelpFormatter, max_help_position=30)
    parser = argparse.ArgumentParser('cankd', '%(prog)s COMMAND ...', what, _EPILOG, formatter_class=lines)
    parser.add_argument('-V', '--version', action='version', version=f'cankd-mm {cankd_mm.__version__}')
    commands = parser.add_subparsers(prog='cankd', dest='command', metavar='COMMAND', required=True)
    for command, (summary, _) in COMMANDS.items():
        _complete(commands.add_parser(command.__name__, help=summary), command)
    return parser


def _complete(parser: argparse.ArgumentParser, command: Command) -> argparse.ArgumentParser:
    """Give a parser what a command says of itself."""
    parser.description = command.__doc__
    parser.formatter_class = partial(argparse.HelpFormatter, max_help_position=30)
    parser.set_defaults(run=command, parser=parser)
    for names, options in COMMANDS[command][1]:
        parser.add_argument(*names, **options)
    # argparse would spend four lines on naming every option before it explains them.
    words = [a.dest.upper() if a.nargs != '?' else f'[{a.dest.upper()}]' for a in parser._get_positional_actions()]
    parser.usage = ' '.join(['%(prog)s', *words, '[options]'])
    return parser


if __name__ == '__main__':
    __spec__ = find_spec('cankd_mm')  # a spawned worker imports the main module, but not by the name of `__main__`
    main()
