"""Say what is installed, what was patched, and what to repair, also where the stack does not import."""

import importlib
import platform
import sys
import warnings
from importlib import metadata
from importlib.util import find_spec
from typing import Iterator, List, NamedTuple, Optional, Tuple

from cankd_mm.errors import reason_of

# Import name, distribution, the versions that MMRazor 1.0 and this package take, and those that were run. The second
# ones of the MM libraries are of their maintained fork, onedl-mmcv and so on under the same import names.
_PACKAGES = (
    ('torch', 'torch', ('>=2.0,<3.0',), ('2.13', '2.14')),
    ('mmengine', 'mmengine', ('>=0.10.3,<1.0',), ('0.10.7', '0.10.12')),
    ('mmcv', 'mmcv-lite', ('==2.1.0', '>=2.3,<2.4'), ('2.1.0', '2.3.6')),
    ('mmdet', 'mmdet', ('>=3.3.0,<3.4', '>=3.5,<3.6'), ('3.3.0', '3.5.1')),
    ('mmseg', 'mmsegmentation', ('>=1.2.2,<1.3', '>=1.4,<1.5'), ('1.2.2', '1.4.2')),
    ('mmrazor', 'mmrazor', ('==1.0.0',), ('1.0.0',)),
    ('numpy', 'numpy', ('',), ('2.4',)),
)


class Finding(NamedTuple):
    """A line of the report, whether it keeps the stack from working, and the command that repairs it."""

    text: str
    bad: bool = False
    repair: Optional[str] = None


def _check_package(name: str, distribution: str, specifiers: tuple, run: tuple) -> Tuple[Optional[str], Finding]:
    """Import a package and judge its version, which is None where it does not import."""
    repair = f'pip install {distribution}=={run[0]}'
    if find_spec(name) is None:
        needed = ', needed for its own task only' if name in ('mmdet', 'mmseg') else ''
        return None, Finding(f'{name}: not installed{needed}', not needed, repair)
    try:
        version = importlib.import_module(name).__version__
        from packaging.specifiers import SpecifierSet
        from packaging.version import parse
    except Exception as e:  # whatever a broken installation raises
        text = f'{name}: does not import ({type(e).__name__}: {reason_of(e)})'
        # MMSegmentation imports timm, which imports torchvision, which has a line of its own.
        repair = None if 'torchvision' in str(e) else repair.replace('install', 'install --force-reinstall')
        return None, Finding(text, True, repair)
    if not any(SpecifierSet(specifier).contains(version, prereleases=True) for specifier in specifiers):
        takes = ' and '.join(specifiers).replace('==', '').replace('>=', '').replace(',<', ' to ')
        return version, Finding(f'{name} {version}: known bad, outside {takes}', True, repair)
    was_run = parse(version).release[:2] in (parse(known).release[:2] for known in run)
    untested = '' if was_run else f', untested here (run on {" and ".join(run)})'
    return version, Finding(f'{name} {version}{untested}')


def _check_operators(mmcv: bool) -> Iterator[Finding]:
    """Look at torchvision, whose kernels are operators and which timm imports, and tell where mmcv's come from."""
    from cankd_mm.stack.ops import kernels, plain, provide, provided

    if find_spec('torchvision') is None:
        text = 'torchvision: not installed, needed for deformable convolutions, its own weights and timm only'
        yield Finding(text, False, kernels.install_command())
    else:
        text, wrong = f'torchvision {metadata.version("torchvision")}', kernels.problem()
        yield Finding(f'{text}: {wrong}', True, kernels.install_command()) if wrong else Finding(text)
    if mmcv and provide():
        yield Finding('mmcv.ops: mmcv has none compiled, cankd_mm.stack.ops provides them')
        for source, names in provided().sources().items():
            yield Finding(f'  from {source}: {", ".join(names)}')
    elif mmcv:
        try:
            importlib.import_module('mmcv.ops')
            yield Finding('mmcv.ops: all operators compiled with mmcv')
        except Exception as e:  # whatever a wheel built for another torch raises
            text = f'mmcv.ops: does not import ({reason_of(e)}), mmcv was built without operators or for another torch'
            # pip's cache may hold the very wheel that does not work.
            yield Finding(text, True, f'pip uninstall mmcv mmcv-lite; {plain.MMCV_BUILD} --no-cache-dir')


def _check_patches() -> List[Finding]:
    """Patch the libraries and import what this package registers."""
    try:
        patched = [Finding(f'patched: {line}') for line in importlib.import_module('cankd_mm.stack.patch').apply()]
        importlib.import_module('cankd_mm.models')
    except Exception as e:  # whatever keeps the stack from importing
        return [Finding(f'cankd_mm: does not import ({reason_of(e)})', True)]
    return [*patched, Finding('cankd_mm: imports, its components are registered')]


def diagnose() -> Iterator[Finding]:
    """Look at the whole stack and report line by line."""
    yield Finding(f'python {platform.python_version()} on {platform.platform()}')
    if find_spec('pkg_resources') is None:
        yield Finding('setuptools: has no pkg_resources, which MMEngine imports', True, 'pip install "setuptools<81"')
    # MMRazor imports beside some versions of mmcv with the patches alone.
    patches = _check_patches() if all(find_spec(name) for name in ('torch', 'mmengine', 'mmcv', 'mmrazor')) else []
    versions = {}
    for package in _PACKAGES:
        versions[package[0]], finding = _check_package(*package)
        yield finding
    if versions['torch']:
        cuda = importlib.import_module('torch').cuda
        names = [cuda.get_device_name(i) for i in range(cuda.device_count())]
        yield Finding(f'accelerators: {", ".join(names) or "none, training runs on the processor"}')
        yield from _check_operators(versions['mmcv'] is not None)
    for name, owner in (('joblib', 'mmrazor'), ('ftfy', 'mmseg'), ('regex', 'mmseg')):  # whose wheel may not name it
        if find_spec(owner) and not find_spec(name):
            yield Finding(f'{name}: not installed, {owner} imports it without naming it', True, f'pip install {name}')
    yield from patches


def main() -> int:
    """Print the report, and return the exit status, 0 if the stack works."""
    warnings.filterwarnings('ignore')
    findings = list(diagnose())
    for finding in findings:
        sys.stdout.write(f'{"BAD " if finding.bad else "ok  "} {finding.text}\n')
        sys.stdout.write(f'       repair: {finding.repair}\n' if finding.repair else '')
    bad = sum(finding.bad for finding in findings)
    sys.stdout.write(f'{bad} things to repair.\n' if bad else 'Everything that cankd_mm needs is here.\n')
    return int(bad > 0)


if __name__ == '__main__':
    sys.exit(main())
