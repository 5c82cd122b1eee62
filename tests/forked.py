"""Python programs in processes that have the libraries imported already, which takes most of a short training.

A fork server of the standard library imports them once for each test process. Programs are given as to `subprocess`,
and start with nothing of a test in them.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(['cankd_mm', 'cankd_mm.apis', 'cankd_mm.engine', 'pycocotools.cocoeval'])


def _program(words, log, env, cwd):
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = words[1:] if words[0] == '-m' else words
    if words[0] == '-m':
        runpy.run_module(words[1], run_name='__main__', alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(words[0]))
        runpy.run_path(words[0], run_name='__main__')


class Popen:
    """What `subprocess.Popen` is of a Python program whose output goes into a file."""

    def __init__(self, words, stdout, stderr=None, env=None, cwd=None):
        interpreter, *words = map(str, words)
        assert interpreter == sys.executable and stderr in (None, subprocess.STDOUT)
        if words[0] == '-W':
            words = words[2:]
        env, cwd = dict(os.environ if env is None else env), str(cwd or Path.cwd())
        self._process = _CONTEXT.Process(target=_program, args=(words, stdout.name, env, cwd))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def terminate(self):
        self._process.terminate()

    def wait(self, timeout=None):
        self._process.join(timeout)
        return self._process.exitcode


def run(words, capture_output=False, text=True, cwd=None, env=None):
    """What `subprocess.run` is of a Python program; output and errors are one."""
    with tempfile.NamedTemporaryFile('r') as log:
        process = Popen(words, log, env=env, cwd=cwd)
        process.wait()
        said = Path(log.name).read_text()
    if not capture_output:
        sys.stdout.write(said)
    return subprocess.CompletedProcess(words, process.returncode, said, said)
