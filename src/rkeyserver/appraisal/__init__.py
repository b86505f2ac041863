"""Appraisal: is what was proved acceptable? Claims and a policy in; a verdict out. No I/O."""
