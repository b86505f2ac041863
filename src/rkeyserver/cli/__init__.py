"""Command line: arguments, output, exit codes. Nothing else knows argv."""
