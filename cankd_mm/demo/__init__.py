from cankd_mm.demo.run import run_demo

__all__ = ['run_demo']
