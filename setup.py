import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

DETECTION = ['mmdet>=3.3.0,<3.4']
# 1.2.0 lacks a file that it opens at import, 1.2.1 fails on class weights; no wheel names ftfy and regex.
SEGMENTATION = ['mmsegmentation>=1.2.2,<1.3', 'ftfy', 'regex']
# What MMDetection's Grounding DINO imports; transformers 5 no longer has the tokenizer's method that it calls.
GROUNDING = ['transformers>=4.30,<5', 'fairscale']
DEMO = [*DETECTION, *SEGMENTATION, 'scikit-learn']
TESTS = [*DEMO, *GROUNDING, 'pytest', 'pytest-xdist', 'hypothesis']

setup(
    name='cankd-mm',
    version=runpy.run_path(str(ROOT / 'cankd_mm' / 'version.py'))['__version__'],
    description='Cross-attention-based non-local knowledge distillation for MMDetection and MMSegmentation',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['cankd_mm', 'cankd_mm.*']),
    python_requires='>=3.8',
    install_requires=[
        'torch>=2.0',
        'mmengine>=0.10.3,<1.0',  # before, a loop by iterations resumes with the first data again
        'mmcv==2.1.0',  # MMRazor refuses anything newer, MMDetection 3.3 was not run on anything older
        'mmrazor==1.0.0',
        'joblib',  # imported by MMRazor, which does not name it
        'packaging',
        'setuptools<81',  # MMEngine imports pkg_resources
    ],
    extras_require={
        'detection': DETECTION,
        'segmentation': SEGMENTATION,
        'grounding': GROUNDING,
        'demo': DEMO,
        'tests': TESTS,
        'dev': [*TESTS, 'psutil', 'ruff==0.17.6', 'pre-commit'],
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
