"""A program of the IR as C99 with vector extensions: no library is needed to run it, and in `exact` mode its bits depend on nothing.

Rule: the text that this package writes is a function of the program and the options, byte for byte. Every sum has one order, which row
kernel, batch kernel and all CPU levels share; the compiler may neither reorder nor fuse.
"""
