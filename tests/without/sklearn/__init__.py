raise ImportError('left out of the processes that tests start: see tests/conftest.py')
