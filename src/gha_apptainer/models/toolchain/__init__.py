"""C to a shared object, in the same bytes wherever it is done.

Rule: what a compiler is, is read from the compiler itself and recorded; a BINARY_TAG of an experiment is only ever given to what the
compiler named in it has built.
"""
