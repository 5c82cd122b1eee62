from cankd_mm.experiment.evaluate import describe, evaluate
from cankd_mm.experiment.report import results_picture, results_table
from cankd_mm.experiment.run import run_experiment

__all__ = ['describe', 'evaluate', 'results_picture', 'results_table', 'run_experiment']
