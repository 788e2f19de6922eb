"""Speed and memory, measured. Never part of the tests: `python -m benchmarks.<name>`."""
