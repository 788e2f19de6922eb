"""Scripts for people who work on the project itself: `python -m tools.<name>`."""

from harness import environment

environment.enter("tools")
