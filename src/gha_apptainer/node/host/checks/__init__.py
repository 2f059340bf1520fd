"""What `doctor` looks at: one function a check, each independent of the others.

Rule: a check yields one answer for one id, changes nothing outside its scratch directory, and tries instead of guessing. `catalogue`
lists them all; a new check is a function and a row there.
"""
