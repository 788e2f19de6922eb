"""Speed and memory, measured. Never part of the tests: `python -m benchmarks.<name>`."""

from harness import environment

environment.enter("benchmarks")
