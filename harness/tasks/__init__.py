"""The kinds of tasks: what each needs, costs and is called after, and what a worker is told of it.

May import ``harness.interface`` alone, so that whoever counts tasks, plans them or does them asks
their classes. Start with ``task``; ``kinds`` has one class per kind.
"""
