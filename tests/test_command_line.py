"""What the command line understands, before anything runs."""

import signal
import sys

import pytest

from cankd_mm import __main__ as cli


@pytest.fixture
def typed(monkeypatch):
    """Type a command: the arguments that it would run with."""

    def run(line):
        name, *_ = words = line.split()
        monkeypatch.setattr(sys, 'argv', ['cankd', *words])
        command = next(command for command in cli.COMMANDS if command.__name__ == name)

        def taken(**arguments):
            found.update(arguments)

        found, taken.__name__, taken.__doc__ = {}, name, command.__doc__
        monkeypatch.setattr(cli, 'COMMANDS', {taken: cli.COMMANDS[command]})
        cli.main()
        monkeypatch.undo()
        return found

    return run


@pytest.mark.parametrize(
    'line',
    [
        'compare a.py --seeds 3 1 --jobs 2',
        'compare --seeds 3 1 a.py --jobs 2',
        'compare --seeds 3 1 --jobs 2 a.py',
        'compare --jobs 2 --seeds 3 1 a.py',
    ],
)
def test_a_pair_stands_anywhere(typed, line):
    found = typed(line)
    assert (found['pair'], found['seeds'], found['jobs']) == (['a.py'], [3, 1], 2)


@pytest.mark.parametrize(
    'old, now, said',
    [
        ('export a.py b.pth --out-dir c', 'export a.py b.pth --out c', '--out-dir is --out now'),
        ('demo --root c', 'demo --work-dir c', '--root is --work-dir now'),
        ('reproduce 2 --check', 'reproduce 2 --dry-run', '--check is --dry-run now'),
    ],
)
def test_older_spellings_are_taken_with_a_warning(typed, capsys, old, now, said):
    assert typed(old) == typed(now)
    assert capsys.readouterr().err == f'warning: {said}, and goes with 0.4.\n'


@pytest.mark.parametrize('line', ['train a.py --check', 'pair a b --check'])
def test_a_check_is_a_command(typed, capsys, line):
    assert typed(line)['check'] and 'is the command check' in capsys.readouterr().err


@pytest.mark.parametrize('line', ['train a.py --nonsense', 'train', 'compare a.py --seeds x'])
def test_a_mistake_shows_the_usage_of_its_command(typed, capsys, line):
    with pytest.raises(SystemExit):
        typed(line)
    name = line.split()[0]
    assert capsys.readouterr().err.startswith(f'usage: cankd {name} ')


def test_every_choice_and_default_stands_in_the_help():
    for command, (_, arguments) in cli.COMMANDS.items():
        for names, options in arguments:
            words = str(options.get('help'))
            assert all(str(choice) in words for choice in options.get('choices') or ()), (command, names)


@pytest.mark.parametrize(
    'line, said',
    [
        ('train a.py', ': --resume goes on from the last checkpoint'),
        ('compare a.py', ': the same command goes on from here'),
        ('test a.py', ''),
    ],
)
def test_an_interruption_is_a_sentence(monkeypatch, capsys, line, said):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, 'signal', lambda number, handler: None)
    monkeypatch.setattr(cli, '_start', interrupted)
    monkeypatch.setattr(sys, 'argv', ['cankd', *line.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130 and capsys.readouterr().err == f'interrupted{said}\n'
