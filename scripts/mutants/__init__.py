"""Which single-point changes of the code do the tests not notice?"""
