"""Values and rules of the field, without any input or output.

Rule: frozen dataclasses and pure functions; standard library only, Python 3.9. Text is UTF-8 with surrogateescape, sizes
are bytes, times are seconds since the epoch in UTC.
"""
