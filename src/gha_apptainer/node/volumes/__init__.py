"""What containers mount that is neither image nor plain directory. Rule: a file system that may hang is touched by a child process only."""
