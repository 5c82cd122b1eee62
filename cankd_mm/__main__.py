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
Run = Callable[..., object]

_EPILOG = """\
CONFIG is a file, or as in cankd_mm::detection/cankd_retinanet-r101_retinanet-r50_2x_coco.py
Several GPUs: torchrun --nproc_per_node=8 --no-python cankd train CONFIG --launcher pytorch
"""


def train(parser: argparse.ArgumentParser) -> Run:
    """Train what a config describes: a teacher-student pair, or a plain detector or segmentor."""
    _add_config(parser)
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PTH',
        help='go on from this checkpoint, or from the last in the work dir',
    )
    parser.add_argument('--check', action='store_true', help='look at everything before the first iteration, and stop')
    parser.add_argument('--wait', action='store_true', help='wait for a training that runs in the work dir')
    _add_teacher_eval(parser)
    _add_runner_arguments(parser)

    def run(**arguments) -> None:
        from cankd_mm.apis import train

        train(**_with_local_rank(arguments))

    return run


def check(parser: argparse.ArgumentParser) -> Run:
    """Look at all that a training would use (data, weights, features, losses), and say what is wrong or doubtful."""
    _add_config(parser)
    _add_teacher_eval(parser)
    _add_runner_arguments(parser)

    def run(**arguments) -> None:
        from cankd_mm.apis import train

        train(check=True, **_with_local_rank(arguments))

    return run


def test(parser: argparse.ArgumentParser) -> Run:
    """Evaluate the student of a pair, its teacher, or a plain model."""
    _add_config(parser)
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file; not needed with --teacher')
    parser.add_argument('--teacher', action='store_true', help='evaluate the teacher with its own checkpoint')
    parser.add_argument('--out', metavar='PKL', help='write the predictions to this .pkl file')
    _add_runner_arguments(parser)

    def run(**arguments) -> None:
        from cankd_mm.apis import test

        test(**_with_local_rank(arguments))

    return run


def export(parser: argparse.ArgumentParser) -> Run:
    """Write a distilled student as config and weights that plain MMDetection or MMSegmentation runs."""
    _add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint of the distillation run')
    parser.add_argument('--out-dir', metavar='DIR', help='folder to write; defaults to `student` beside the checkpoint')
    _add_cfg_options(parser)

    def run(**arguments) -> None:
        from cankd_mm.apis import export_student

        _say('\n'.join(export_student(**arguments)))

    return run


def pair(parser: argparse.ArgumentParser) -> Run:
    """Write the config of a teacher-student pair, and say what was chosen and why."""
    models = 'name of a zoo model, config file, or package::path'
    parser.add_argument('teacher', help=models)
    parser.add_argument('student', help='the same of the student')
    parser.add_argument('--teacher-ckpt', metavar='PTH', help="the teacher's checkpoint, where it is no zoo model's")
    parser.add_argument('--data', metavar='CONFIG', help='config of the data set to train on, where it is another')
    parser.add_argument('--recommended', action='store_true', help='with the settings that measured best')
    parser.add_argument('--out', metavar='FILE', help='defaults to cankd_TEACHER_STUDENT.py')
    parser.add_argument('--check', action='store_true', help='look at all that its training would use, too')

    def run(teacher, student, teacher_ckpt, data, recommended, out, check) -> None:
        from cankd_mm.apis import train
        from cankd_mm.apis.pair import write_pair
        from cankd_mm.models.utils import quiet

        out = out or f'cankd_{Path(teacher).stem}_{Path(student).stem}.py'.replace(':', '-')
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            lines = write_pair(teacher, student, out, teacher_ckpt, data, recommended)
        _say('\n'.join([*lines, '', Path(out).read_text(encoding='utf-8').rstrip()]))
        if check:
            train(out, check=True)

    return run


def compare(parser: argparse.ArgumentParser) -> Run:
    """Train a pair alone, with CanKD and with other methods over several seeds, and write one table."""
    parser.add_argument('pair', help='config of a pair; or the results.json of a comparison, to lay it out again')
    parser.add_argument(
        '--methods',
        nargs='+',
        default=[],
        metavar='CFG',
        help='configs of what further methods change',
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N', help='seeds of every method')
    parser.add_argument(
        '--work-dir', metavar='DIR', help='folder of all trainings; defaults to work_dirs/compare/<name of the pair>'
    )
    _add_place(parser)
    parser.add_argument('--no-train', action='store_true', help='lay out what is done already, and train nothing')
    _add_cfg_options(parser)

    def run(pair, methods, seeds, work_dir, no_train, cfg_options, **place) -> None:
        from mmengine.fileio import load

        from cankd_mm.experiments.compare import compare
        from cankd_mm.experiments.report import tables, write_report

        if pair.endswith('.json'):
            path = Path(pair)
            _say(write_report(load(str(path)), path.parent, path.stem))
            return
        with _goes_on():
            root = work_dir or default_work_dir(pair, 'compare')
            results = compare(pair, methods, seeds, work_dir, _place(root, **place), cfg_options, not no_train)
        _say(f'\n{tables(results)}')

    return run


def tune(parser: argparse.ArgumentParser) -> Run:
    """Search on the validation set for weight, levels, parts that start from the teacher, or any key of the config."""
    parser.add_argument('config', help='config of a pair, or package::path')
    parser.add_argument(
        '--search',
        nargs='+',
        default=['weight', 'levels', 'init'],
        metavar='WHAT',
        help='weight, levels, init; or level-weights, mode, KEY=LOW..HIGH[:log], KEY=A,B,C',
    )
    parser.add_argument('--trials', type=int, default=20, metavar='N', help='trials of the search; defaults to 20')
    parser.add_argument('--hours', type=float, metavar='H', help='begin no trial after this time')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of every training; defaults to 0')
    parser.add_argument('--storage', metavar='URL', help='database that several calls share')
    parser.add_argument('--work-dir', metavar='DIR', help='defaults to work_dirs/tune/<name of the config>')
    _add_place(parser)
    _add_cfg_options(parser)

    def run(jobs, executor, partition, slurm, **arguments) -> None:
        try:
            from cankd_mm.experiments.tune import tune
        except ModuleNotFoundError as e:
            if e.name != 'optuna':
                raise
            sys.exit('error: cankd tune searches with Optuna, which is not installed: pip install optuna.')
        root = arguments['work_dir'] or default_work_dir(arguments['config'], 'tune')
        with _goes_on():
            tuned = tune(place=_place(root, jobs, executor, partition, slurm), **arguments)
        _say(f'\n{tuned.read_text(encoding="utf-8")}\nThe page: {tuned.with_name("report.html")}')
        _say(f'The best of many was lucky, too; what it is worth: cankd compare {tuned} --seeds 11 12 13 14 15')

    return run


def reproduce(parser: argparse.ArgumentParser) -> Run:
    """Reproduce a row of the paper's tables: check what it needs, train, export, test in the plain library, report."""
    parser.add_argument('row', nargs='?', help='number, config name or config path; left out, the rows are listed')
    parser.add_argument('--check', action='store_true', help='only say what is missing, and where to put it')
    parser.add_argument(
        '--gpus', type=int, metavar='N', help='how many GPUs, 0 for the processor; defaults to all there are'
    )
    parser.add_argument(
        '--teacher-ckpt', metavar='PTH', help="the teacher's checkpoint, for rows without public weights"
    )
    parser.add_argument('--work-dir', metavar='DIR', help='folder of everything that is written')
    parser.add_argument(
        '--seed', type=int, metavar='N', help='random seed; defaults to one that MMEngine draws and logs'
    )
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


def show(parser: argparse.ArgumentParser) -> Run:
    """Write a page that shows what a student has learnt from its teacher, and where it has not."""
    parser.add_argument('config', help='config of the pair, or package::path')
    parser.add_argument('checkpoint', help='checkpoint of its training')
    parser.add_argument('--images', nargs='+', metavar='PATH', help='images to look at; defaults to some of the data')
    parser.add_argument('--split', default='val', help='data that the images are of: val, test or train')
    parser.add_argument('-n', type=int, default=8, dest='count', metavar='N', help='how many images; defaults to 8')
    parser.add_argument('--against', metavar='PTH', help='checkpoint of the student that was trained alone')
    parser.add_argument(
        '--at', nargs=2, type=float, metavar=('X', 'Y'), help='pixel of the image whose attention is shown'
    )
    parser.add_argument('--out', metavar='DIR', help='folder to write; defaults to `show` beside the checkpoint')
    parser.add_argument('--no-eval', action='store_true', help='do not rate the models on the validation set')
    _add_cfg_options(parser)

    def run(no_eval, **arguments) -> None:
        from cankd_mm.show.show import show

        _say(f'The page: {show(evaluate=not no_eval, **arguments)}')

    return run


def results(parser: argparse.ArgumentParser) -> Run:
    """Gather the results and logs under a folder into one table beside the paper's, as Markdown and JSON."""
    parser.add_argument('folder', nargs='?', type=Path, default=Path('work_dirs'), help='defaults to work_dirs')

    def run(folder) -> None:
        from cankd_mm.experiments.rows import write_results

        table, written = write_results(folder)
        _say(f'{table}\n\nWritten to {" and ".join(map(str, written))}')

    return run


def demo(parser: argparse.ArgumentParser) -> Run:
    """Show CanKD on scenes of handwritten digits: detection and segmentation, with nothing to download."""
    parser.add_argument('--root', type=Path, metavar='DIR', help='folder of all results; defaults to work_dirs/demo')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], metavar='N', help='seeds of the students')
    parser.add_argument('--controls', action='store_true', help='train the fair controls, too')
    parser.add_argument('--quick', action='store_true', help='one short epoch each, in 4 minutes: figures mean nothing')
    tasks = ['detection', 'segmentation']
    parser.add_argument(
        '--tasks', nargs='+', choices=tasks, default=tasks, metavar='TASK', help='detection, segmentation'
    )

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


def doctor(parser: argparse.ArgumentParser) -> Run:
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


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class _RawFormatter(_Formatter, argparse.RawDescriptionHelpFormatter):
    pass


def main(command: Optional[Callable[[argparse.ArgumentParser], Run]] = None) -> None:
    """Run a command line.

    Args:
        command (Callable, optional): One of :data:`COMMANDS`. Defaults to None, which the first word names.
    """
    if command is not None:
        parser = argparse.ArgumentParser(formatter_class=_Formatter)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='cankd',
        description='Distil a small detector or segmentor from a strong one, with MMDetection and MMSegmentation.',
        usage='%(prog)s COMMAND ...',
        epilog=_EPILOG,
        formatter_class=_RawFormatter,
    )
    parser.add_argument('-V', '--version', action='version', version=f'cankd-mm {cankd_mm.__version__}')
    commands = parser.add_subparsers(prog='cankd', dest='command', metavar='COMMAND', required=True)
    for command, summary in COMMANDS.items():
        _complete(commands.add_parser(command.__name__, help=summary, formatter_class=_Formatter), command)
    return parser


def _complete(parser: argparse.ArgumentParser, command: Callable[[argparse.ArgumentParser], Run]) -> None:
    parser.description = command.__doc__
    parser.set_defaults(run=command(parser))
    # argparse would spend four lines on naming every option before it explains them.
    words = [a.dest.upper() if a.nargs != '?' else f'[{a.dest.upper()}]' for a in parser._get_positional_actions()]
    parser.usage = ' '.join(['%(prog)s', *words, '[options]'])


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='config file, or package::path')


def _add_teacher_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--teacher-eval', type=int, default=0, metavar='N', help='evaluate the teacher on N images first'
    )


def _add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--work-dir', metavar='DIR', help='folder of logs and checkpoints')
    _add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        metavar='NAME',
        help='what starts the processes: none, pytorch, slurm or mpi',
    )
    # torch.distributed.launch passes --local-rank from torch 2.0 on, and --local_rank before.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


class _CfgOptions(argparse.Action):
    def __call__(self, parser, namespace, words, option_string=None) -> None:
        with one_sentence_errors():
            setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **parse_options(words)})


def _add_cfg_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_CfgOptions,
        metavar='KEY=VALUE',
        help='override entries of the config: model.teacher_ckpt=a.pth "model.distiller.levels=[0,2]"',
    )


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--jobs', type=int, metavar='N', help='trainings side by side; one per GPU, or per core')
    parser.add_argument('--executor', choices=['local', 'slurm'], default='local', metavar='E', help='local or slurm')
    parser.add_argument('--partition', metavar='P', help='of Slurm')
    parser.add_argument(
        '--slurm', nargs='+', default=[], metavar='OPT', help='sbatch options: account=A time=60 gres=gpu:1'
    )


def _place(root: object, jobs: Optional[int], executor: str, partition: Optional[str], slurm: list) -> object:
    """Where trainings run."""
    if executor == 'local':
        from cankd_mm.experiments.jobs import Local

        return Local(jobs)
    try:
        from cankd_mm.experiments.slurm import Slurm
    except ModuleNotFoundError as e:
        if e.name != 'submitit':
            raise
        sys.exit('error: --executor slurm goes through submitit, which is not installed: pip install submitit.')
    return Slurm(Path(root) / 'slurm', jobs, partition, dict(word.split('=', 1) for word in slurm))


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
