"""The doubles that ship: what faces are tested with, and what others may test their own faces with.

Rule: a double keeps the contract of the real thing as its tests state it, and nothing but tests imports it.
"""
