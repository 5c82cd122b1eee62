"""The command ``cankd``, and the tools in ``tools/``, which are its commands one by one.

What takes long to import is imported when a command runs, so that help is there in a moment.
"""

import argparse
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Optional

import cankd_mm
from cankd_mm.config.options import parse_options
from cankd_mm.config.paths import default_work_dir, folder
from cankd_mm.errors import one_sentence_errors

# A command adds its arguments to a parser, and returns what runs it with their values.
Parser = argparse.ArgumentParser
Run = Callable[..., object]

_EPILOG = """\
CONFIG is a file, or as in cankd_mm::detection/cankd_retinanet-r101_retinanet-r50_2x_coco.py
Several GPUs: torchrun --nproc_per_node=8 --no-python cankd train CONFIG --launcher pytorch
"""


def train(parser: Parser) -> Run:
    """Train what a config describes: a teacher-student pair, or a plain detector or segmentor."""
    _add_config(parser)
    _add_switch(parser, '--amp', 'train with automatic mixed precision')
    _add_switch(parser, '--auto-scale-lr', 'scale the learning rate to the batch size')
    resume = 'go on from this checkpoint, or from the last in the work dir'
    parser.add_argument('--resume', nargs='?', const='auto', metavar='PTH', help=resume)
    _add_switch(parser, '--check', 'look at everything before the first iteration, and stop')
    _add_switch(parser, '--wait', 'wait for a training that runs in the work dir')
    _add_teacher_eval(parser)
    _add_runner_arguments(parser)

    def run(**arguments) -> None:
        from cankd_mm.apis import train

        train(**_with_local_rank(arguments))

    return run


def check(parser: Parser) -> Run:
    """Look at all that a training would use (data, weights, features, losses), and say what is wrong or doubtful."""
    _add_config(parser)
    _add_teacher_eval(parser)
    _add_runner_arguments(parser)

    def run(**arguments) -> None:
        from cankd_mm.apis import train

        train(check=True, **_with_local_rank(arguments))

    return run


def test(parser: Parser) -> Run:
    """Evaluate the student of a pair, its teacher, or a plain model."""
    _add_config(parser)
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file; not needed with --teacher')
    _add_switch(parser, '--teacher', 'evaluate the teacher with its own checkpoint')
    parser.add_argument('--out', metavar='PKL', help='write the predictions to this .pkl file')
    _add_runner_arguments(parser)

    def run(**arguments) -> None:
        from cankd_mm.apis import test

        test(**_with_local_rank(arguments))

    return run


def export(parser: Parser) -> Run:
    """Write a distilled student as config and weights that plain MMDetection or MMSegmentation runs."""
    _add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint of the distillation run')
    parser.add_argument('--out-dir', metavar='DIR', help='folder to write; defaults to `student` beside the checkpoint')
    _add_cfg_options(parser)

    def run(**arguments) -> None:
        from cankd_mm.apis import export_student

        _say('\n'.join(export_student(**arguments)))

    return run


def pair(parser: Parser) -> Run:
    """Write the config of a teacher-student pair, and say what was chosen and why."""
    parser.add_argument('teacher', help='name of a zoo model, config file, or package::path')
    parser.add_argument('student', help='the same of the student')
    parser.add_argument('--teacher-ckpt', metavar='PTH', help="the teacher's checkpoint, where it is no zoo model's")
    parser.add_argument('--data', metavar='CONFIG', help='config of the data set to train on, where it is another')
    _add_switch(parser, '--recommended', 'with the settings that measured best')
    parser.add_argument('--out', metavar='FILE', help='defaults to cankd_TEACHER_STUDENT.py')
    _add_switch(parser, '--check', 'look at all that its training would use, too')

    def run(teacher, student, out, check, **options) -> None:
        from cankd_mm.apis import train
        from cankd_mm.apis.pair import write_pair
        from cankd_mm.models.utils import quiet

        out = out or f'cankd_{Path(teacher).stem}_{Path(student).stem}.py'.replace(':', '-')
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            lines = write_pair(teacher, student, out, **options)
        _say('\n'.join([*lines, '', Path(out).read_text(encoding='utf-8').rstrip()]))
        if check:
            train(out, check=True)

    return run


def compare(parser: Parser) -> Run:
    """Train a pair alone, with CanKD and with other methods over several seeds, and write one table."""
    parser.add_argument('pair', help='config of a pair; or the results.json of a comparison, to lay it out again')
    methods = 'configs of what further methods change'
    parser.add_argument('--methods', nargs='+', default=[], metavar='CFG', help=methods)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N', help='seeds of every method')
    parser.add_argument('--work-dir', metavar='DIR', help='defaults to work_dirs/compare/<name of the pair>')
    _add_place(parser)
    _add_switch(parser, '--no-train', 'lay out what is done already, and train nothing')
    _add_cfg_options(parser)

    def run(pair, methods, seeds, work_dir, no_train, cfg_options, **place) -> None:
        from mmengine.fileio import load

        from cankd_mm.experiments.compare import compare
        from cankd_mm.experiments.report import tables, write_report

        if pair.endswith('.json'):
            _say(write_report(load(pair), Path(pair).parent, Path(pair).stem))
            return
        with _goes_on():
            root = work_dir or default_work_dir(pair, 'compare')
            results = compare(pair, methods, seeds, work_dir, _place(root, **place), cfg_options, not no_train)
        _say(f'\n{tables(results)}')

    return run


def tune(parser: Parser) -> Run:
    """Search on the validation set for weight, levels, parts that start from the teacher, or any key of the config."""
    _add_config(parser)
    what = 'weight, levels, init; or level-weights, mode, KEY=LOW..HIGH[:log], KEY=A,B,C'
    parser.add_argument('--search', nargs='+', default=['weight', 'levels', 'init'], metavar='WHAT', help=what)
    parser.add_argument('--trials', type=int, default=20, metavar='N', help='trials of the search; defaults to 20')
    parser.add_argument('--hours', type=float, metavar='H', help='begin no trial after this time')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of every training; defaults to 0')
    parser.add_argument('--storage', metavar='URL', help='database that several calls share')
    parser.add_argument('--work-dir', metavar='DIR', help='defaults to work_dirs/tune/<name of the config>')
    _add_place(parser)
    _add_cfg_options(parser)

    def run(jobs, executor, partition, slurm, **arguments) -> None:
        with _needs('optuna', 'cankd tune searches with Optuna'):
            from cankd_mm.experiments.tune import tune
        root = arguments['work_dir'] or default_work_dir(arguments['config'], 'tune')
        with _goes_on():
            tuned = tune(place=_place(root, jobs, executor, partition, slurm), **arguments)
        _say(f'\n{tuned.read_text(encoding="utf-8")}\nThe page: {tuned.with_name("report.html")}')
        _say(f'The best of many was lucky, too; what it is worth: cankd compare {tuned} --seeds 11 12 13 14 15')

    return run


def reproduce(parser: Parser) -> Run:
    """Reproduce a row of the paper's tables: check what it needs, train, export, test in the plain library, report."""
    parser.add_argument('row', nargs='?', help='number, config name or config path; left out, the rows are listed')
    _add_switch(parser, '--check', 'only say what is missing, and where to put it')
    gpus = 'how many GPUs, 0 for the processor; defaults to all there are'
    parser.add_argument('--gpus', type=int, metavar='N', help=gpus)
    parser.add_argument('--teacher-ckpt', metavar='PTH', help="the teacher's, for rows without public weights")
    parser.add_argument('--work-dir', metavar='DIR', help='folder of everything that is written')
    parser.add_argument('--seed', type=int, metavar='N', help='defaults to one that MMEngine draws and logs')
    _add_cfg_options(parser)

    def run(row, check, gpus, teacher_ckpt, work_dir, seed, cfg_options) -> None:
        from cankd_mm.config.read import load_config
        from cankd_mm.experiments.reproduce import missing, reproduce, row_options
        from cankd_mm.experiments.rows import find_row, load_rows

        rows = load_rows(folder('configs'))
        if row is None:
            for row in rows:
                figures = f'paper {row.paper}' if row.paper else f'ours {row.ours}' if row.ours else 'no figure'
                _say(f'{row.number or "-":18} {row.name:68} {row.metric} {figures}')
            return
        row = find_row(rows, row)
        if check:
            options = row_options(teacher_ckpt, seed, cfg_options)
            lacking = missing(row, load_config(str(row.config), options, work_dir), gpus)
            _say('\n'.join(lacking or [f'{row.name} has all it needs.']))
            sys.exit(bool(lacking))
        with _goes_on():
            result = reproduce(row, gpus, teacher_ckpt, work_dir, seed, cfg_options)
        _say(
            f'{row.name}: {result["metric"]} {result["value"]} (paper {row.paper or "gives none"}, student alone '
            f'{row.student.figure}, teacher {row.teacher.figure})'
        )

    return run


def show(parser: Parser) -> Run:
    """Write a page that shows what a student has learnt from its teacher, and where it has not."""
    _add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint of its training')
    parser.add_argument('--images', nargs='+', metavar='PATH', help='images to look at; defaults to some of the data')
    parser.add_argument('--split', default='val', help='data that the images are of: val, test or train')
    parser.add_argument('-n', type=int, default=8, dest='count', metavar='N', help='how many images; defaults to 8')
    parser.add_argument('--against', metavar='PTH', help='checkpoint of the student that was trained alone')
    at = 'pixel of the image whose attention is shown'
    parser.add_argument('--at', nargs=2, type=float, metavar=('X', 'Y'), help=at)
    parser.add_argument('--out', metavar='DIR', help='folder to write; defaults to `show` beside the checkpoint')
    _add_switch(parser, '--no-eval', 'do not rate the models on the validation set')
    _add_cfg_options(parser)

    def run(no_eval, **arguments) -> None:
        from cankd_mm.show.show import show

        _say(f'The page: {show(evaluate=not no_eval, **arguments)}')

    return run


def results(parser: Parser) -> Run:
    """Gather the results and logs under a folder into one table beside the paper's, as Markdown and JSON."""
    parser.add_argument('folder', nargs='?', type=Path, default=Path('work_dirs'), help='defaults to work_dirs')

    def run(folder) -> None:
        from cankd_mm.experiments.rows import write_results

        table, written = write_results(folder)
        _say(f'{table}\n\nWritten to {" and ".join(map(str, written))}')

    return run


def demo(parser: Parser) -> Run:
    """Show CanKD on scenes of handwritten digits: detection and segmentation, with nothing to download."""
    parser.add_argument('--root', type=Path, metavar='DIR', help='folder of all results; defaults to work_dirs/demo')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], metavar='N', help='seeds of the students')
    _add_switch(parser, '--controls', 'train the fair controls, too')
    _add_switch(parser, '--quick', 'one short epoch each, in 4 minutes: figures mean nothing')
    names = dict(nargs='+', default=['detection', 'segmentation'], choices=['detection', 'segmentation'])
    parser.add_argument('--tasks', metavar='TASK', help='detection, segmentation', **names)

    def run(root, seeds, controls, quick, tasks) -> None:
        from cankd_mm.demo.run import run_demo

        root = root or Path('work_dirs/demo-quick' if quick else 'work_dirs/demo')
        with _goes_on():
            table = run_demo(root, seeds, controls, quick, tasks)
        _say(f'\n{table}\n\nThe tables as JSON: {root}/*/results.json\nThe picture: {root}/comparison.jpg')
        _say('\n'.join(f'What the student learnt: {root}/{task}_page/report.html' for task in tasks))
        if quick:
            _say('One short epoch each: the figures mean nothing.')

    return run


def doctor(parser: Parser) -> Run:
    """Say what is installed, what was patched, and what to repair; also where the stack does not import."""

    def run() -> None:
        from cankd_mm.stack.doctor import main

        sys.exit(main())

    return run


COMMANDS = {
    train: 'train a pair, or any config of the two libraries',
    test: 'evaluate a student, a teacher, or a plain model',
    export: 'write a student for the plain library',
    check: 'look at a training before it starts',
    pair: 'write the config of a pair of your own',
    compare: 'compare CanKD with other methods on a pair',
    tune: 'search for weight, levels and the like',
    reproduce: "reproduce a row of the paper's tables",
    show: 'show what a student learnt, and where not',
    results: "put all runs beside the paper's figures",
    demo: 'show it on digits, with nothing to download',
    doctor: 'say what is installed, and what to repair',
}


def _wide(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=30)


class _WithEpilog(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


def main(command: Optional[Callable[[Parser], Run]] = None) -> None:
    """Run a command line.

    Args:
        command (Callable, optional): One of :data:`COMMANDS`. Defaults to None, which the first word names.
    """
    if command is not None:
        parser = Parser(formatter_class=_wide)
        _complete(parser, command)
    else:
        parser = _parser()
    arguments = vars(parser.parse_args())
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated')  # MMEngine's, and setuptools is held back for it
    run = arguments.pop('run')
    if arguments.pop('command', None) != 'doctor' and command is not doctor:
        try:
            cankd_mm.register()
        except ImportError as e:
            sys.exit(f'error: {e}')
    with one_sentence_errors():
        run(**arguments)


def _parser() -> Parser:
    what = 'Distil a small detector or segmentor from a strong one, with MMDetection and MMSegmentation.'
    words = dict(prog='cankd', usage='%(prog)s COMMAND ...', formatter_class=_WithEpilog)
    parser = Parser(description=what, epilog=_EPILOG, **words)
    parser.add_argument('-V', '--version', action='version', version=f'cankd-mm {cankd_mm.__version__}')
    commands = parser.add_subparsers(prog='cankd', dest='command', metavar='COMMAND', required=True)
    for command, summary in COMMANDS.items():
        _complete(commands.add_parser(command.__name__, help=summary, formatter_class=_wide), command)
    return parser


def _complete(parser: Parser, command: Callable[[Parser], Run]) -> None:
    parser.description = command.__doc__
    parser.set_defaults(run=command(parser))
    # argparse would spend four lines on naming every option before it explains them.
    words = [a.dest.upper() if a.nargs != '?' else f'[{a.dest.upper()}]' for a in parser._get_positional_actions()]
    parser.usage = ' '.join(['%(prog)s', *words, '[options]'])


def _add_config(parser: Parser) -> None:
    parser.add_argument('config', help='config file, or package::path')


def _add_switch(parser: Parser, name: str, what: str) -> None:
    parser.add_argument(name, action='store_true', help=what)


def _add_teacher_eval(parser: Parser) -> None:
    what = 'evaluate the teacher on N images first'
    parser.add_argument('--teacher-eval', type=int, default=0, metavar='N', help=what)


def _add_runner_arguments(parser: Parser) -> None:
    parser.add_argument('--work-dir', metavar='DIR', help='folder of logs and checkpoints')
    _add_cfg_options(parser)
    launchers = dict(choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', metavar='NAME')
    parser.add_argument('--launcher', help='what starts the processes: none, pytorch, slurm or mpi', **launchers)
    # torch.distributed.launch passes --local-rank from torch 2.0 on, and --local_rank before.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


class _CfgOptions(argparse.Action):
    def __call__(self, parser, namespace, words, option_string=None) -> None:
        with one_sentence_errors():
            setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **parse_options(words)})


def _add_cfg_options(parser: Parser) -> None:
    what = 'override entries of the config: model.teacher_ckpt=a.pth "model.distiller.levels=[0,2]"'
    parser.add_argument('--cfg-options', nargs='+', action=_CfgOptions, metavar='KEY=VALUE', help=what)


def _add_place(parser: Parser) -> None:
    parser.add_argument('--jobs', type=int, metavar='N', help='trainings side by side; one per GPU, or per core')
    parser.add_argument('--executor', choices=['local', 'slurm'], default='local', metavar='E', help='local or slurm')
    parser.add_argument('--partition', metavar='P', help='of Slurm')
    options = 'sbatch options: account=A time=60 gres=gpu:1'
    parser.add_argument('--slurm', nargs='+', default=[], metavar='OPT', help=options)


def _place(root: object, jobs: Optional[int], executor: str, partition: Optional[str], slurm: list) -> object:
    """Where trainings run."""
    if executor == 'local':
        from cankd_mm.experiments.jobs import Local

        return Local(jobs)
    with _needs('submitit', '--executor slurm goes through submitit'):
        from cankd_mm.experiments.slurm import Slurm
    return Slurm(Path(root) / 'slurm', jobs, partition, dict(word.split('=', 1) for word in slurm))


@contextmanager
def _needs(package: str, why: str) -> Iterator[None]:
    """Say what is not installed."""
    try:
        yield
    except ModuleNotFoundError as e:
        if e.name != package:
            raise
        sys.exit(f'error: {why}, which is not installed: pip install {package}.')


def _with_local_rank(arguments: dict) -> dict:
    """Set the local rank that the launcher gave, which is no argument of what runs."""
    os.environ.setdefault('LOCAL_RANK', str(arguments.pop('local_rank')))
    return arguments


@contextmanager
def _goes_on() -> Iterator[None]:
    """End a command that goes on where it stopped with one sentence when it is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit('interrupted: the same command goes on from here') from None


def _say(text: str) -> None:
    sys.stdout.write(f'{text}\n')


if __name__ == '__main__':
    main()
