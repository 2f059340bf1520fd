"""What has to hold before a library is released; each check yields findings, and none can be passed by not running.

Rule: the file is judged as it lies on the disk, in processes of its own where it is executed. A check that cannot run here says so as
`skip`, with what it would need; it never says ok.
"""
