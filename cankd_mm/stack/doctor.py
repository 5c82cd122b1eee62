"""Say what is installed, what was mended, and what to repair: ``cankd doctor``.

It imports nothing of the stack before it is needed, and so works where the stack does not import.
"""

import importlib
import importlib.util
import platform
import re
import sys
from importlib import metadata
from typing import List, NamedTuple, Optional, Tuple

# Import name, distribution, the ranges of versions that MMRazor 1.0 and this package take, and those that were run. The
# second ranges of the MM libraries are of their maintained fork, onedl-mmcv and so on under the same import names.
PACKAGES = (
    ('torch', 'torch', (('2.0', None),), ('2.13', '2.14')),
    ('mmengine', 'mmengine', (('0.10.3', '1.0'),), ('0.10.7', '0.10.12')),
    ('mmcv', 'mmcv-lite', (('2.1.0', '2.1.0'), ('2.3', '2.4')), ('2.1.0', '2.3.6')),
    ('mmdet', 'mmdet', (('3.3.0', '3.4'), ('3.5', '3.6')), ('3.3.0', '3.5.1')),
    ('mmseg', 'mmsegmentation', (('1.2.2', '1.3'), ('1.4', '1.5')), ('1.2.2', '1.4.2')),
    ('mmrazor', 'mmrazor', (('1.0.0', '1.0.0'),), ('1.0.0',)),
    ('numpy', 'numpy', ((None, None),), ('2.4',)),
)
# What the wheels of MMRazor and MMSegmentation import without naming it.
UNNAMED = (('joblib', 'mmrazor'), ('ftfy', 'mmseg'), ('regex', 'mmseg'))
OPTIONAL = ('mmdet', 'mmseg')
MMCV_BUILD = 'MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0'


class Finding(NamedTuple):
    """One line of the report: what it says, whether it keeps the stack from working, and what repairs it."""

    text: str
    bad: bool = False
    repair: Optional[str] = None


def check_package(
    name: str, distribution: str, ranges: Tuple[Tuple[Optional[str], Optional[str]], ...], run: Tuple[str, ...]
) -> Tuple[Optional[str], Finding]:
    """Import one package and judge its version.

    Args:
        name (str): The import name.
        distribution (str): The name that pip knows.
        ranges (tuple[tuple[str | None, str | None]]): The oldest and the newest version of every range that works.
        run (tuple[str]): The versions that this package's tests ran on, the one to install first.

    Returns:
        tuple[str | None, Finding]: The version, None where it does not import, and what was found.
    """
    repair = f'pip install {distribution}=={run[0]}'
    if importlib.util.find_spec(name) is None:
        optional = name in OPTIONAL
        return None, Finding(
            f'{name}: not installed{", needed for its own task only" if optional else ""}', not optional, repair
        )
    try:
        version = importlib.import_module(name).__version__
    except Exception as e:  # the doctor names whatever a broken installation raises
        found = f'{name}: does not import ({type(e).__name__}: {_first_line(e)})'
        return None, Finding(found, True, repair.replace('install', 'install --force-reinstall'))
    if not any(_is_between(version, *ends) for ends in ranges):
        takes = ' and '.join(oldest if oldest == newest else f'{oldest} to {newest}' for oldest, newest in ranges)
        return version, Finding(f'{name} {version}: known bad, outside {takes}', True, repair)
    was_run = _key(version)[:2] in (_key(known)[:2] for known in run)
    return version, Finding(
        f'{name} {version}{"" if was_run else ", untested here (run on " + " and ".join(run) + ")"}'
    )


def _is_between(version: str, oldest: Optional[str], newest: Optional[str]) -> bool:
    return _key(oldest or '') <= _key(version) and (newest is None or _key(version) <= _key(newest))


def check_mmcv_ops() -> List[Finding]:
    """Tell where every operator of mmcv comes from: compiled with it, or from this package.

    Returns:
        list[Finding]: What was found.
    """
    from cankd_mm.stack.ops import provide, provided

    provide()
    if provided() is not None:
        sources = provided().sources()
        findings = [Finding('mmcv.ops: mmcv has none compiled, cankd_mm.stack.ops provides them')]
        for source in sorted(set(sources.values())):
            findings.append(Finding(f'  from {source}: {", ".join(op for op in sources if sources[op] == source)}'))
        return findings
    try:
        importlib.import_module('mmcv.ops')
    except Exception as e:  # whatever a wheel built for another torch raises
        return [
            Finding(
                f'mmcv.ops: does not import ({_first_line(e)}), mmcv was built without operators or for another torch',
                True,
                # pip's cache may hold the very wheel that does not work.
                f'pip uninstall mmcv mmcv-lite; {MMCV_BUILD} --no-cache-dir',
            )
        ]
    return [Finding('mmcv.ops: all operators compiled with mmcv')]


def diagnose() -> List[Finding]:
    """Look at the whole stack.

    Returns:
        list[Finding]: The report, line by line.
    """
    findings = [Finding(f'python {platform.python_version()} on {platform.platform()}')]
    if importlib.util.find_spec('pkg_resources') is None:
        findings.append(
            Finding('setuptools: has no pkg_resources, which MMEngine imports', True, 'pip install "setuptools<81"')
        )
    versions = {}
    for package in PACKAGES:
        if package[0] == 'mmrazor' and versions['mmcv'] and versions['mmengine']:
            _patch_mmcv_check()
        versions[package[0]], finding = check_package(*package)
        findings.append(finding)
    if versions['torch']:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        findings.append(Finding(f'accelerators: {", ".join(names) or "none, training runs on the processor"}'))
    if versions['mmcv']:
        findings += check_mmcv_ops()
    for name, owner in UNNAMED:
        if importlib.util.find_spec(owner) is not None and importlib.util.find_spec(name) is None:
            findings.append(
                Finding(f'{name}: not installed, {owner} imports it without naming it', True, f'pip install {name}')
            )
    if versions['mmcv'] and versions['mmengine'] and versions['mmrazor']:
        findings += check_mended()
    return findings


def check_mended() -> List[Finding]:
    """Apply the remedies and import everything that this package registers.

    Returns:
        list[Finding]: One line per remedy, and whether the components are registered.
    """
    from cankd_mm.stack import patch

    try:
        findings = [Finding(f'mended: {line}') for line in patch.apply()]
        importlib.import_module('cankd_mm.models')
    except Exception as e:  # the doctor names whatever keeps the stack from importing
        return [Finding(f'cankd_mm: does not import ({_first_line(e)})', True)]
    return [*findings, Finding('cankd_mm: imports, its components are registered')]


def _patch_mmcv_check() -> None:
    """MMRazor looks at mmcv's version when it is imported."""
    from cankd_mm.stack import patch

    try:
        patch.patch_mmcv_check()
    except Exception:  # check_package tells of it
        return


def main() -> int:
    """Print the report.

    Returns:
        int: 0 if the stack works, 1 otherwise.
    """
    import warnings

    warnings.filterwarnings('ignore')
    findings = diagnose()
    lines = []
    for finding in findings:
        lines.append(f'{"BAD " if finding.bad else "ok  "} {finding.text}')
        if finding.repair:
            lines.append(f'       repair: {finding.repair}')
    bad = sum(finding.bad for finding in findings)
    lines.append(f'{bad} things to repair.' if bad else 'Everything that cankd_mm needs is here.')
    sys.stdout.write('\n'.join(lines) + '\n')
    return int(bad > 0)


def _key(version: str) -> Tuple[int, ...]:
    """The leading numbers of a version: ``'2.1.0+cu121'`` is ``(2, 1, 0)``."""
    numbers = []
    for part in version.split('+')[0].split('.')[:3]:
        digits = re.match(r'\d+', part)
        if digits is None:
            break
        numbers.append(int(digits.group()))
    return tuple(numbers)


def _first_line(e: BaseException) -> str:
    return (str(e) or type(e).__name__).splitlines()[0]


if __name__ == '__main__':
    # distribution metadata is looked up here so that a missing install of this package is said, too
    try:
        metadata.version('cankd-mm')
    except metadata.PackageNotFoundError:
        sys.stdout.write('note: cankd-mm is not installed, it runs from its folder\n')
    sys.exit(main())
