"""What runs on the machine that runs containers: laptop, compute node or runner pod.

Rule: standard library only, Python 3.9, blocking code, a time limit on every wait.
"""
