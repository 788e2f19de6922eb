"""Who does the tasks of a plan, in which order, and what they keep warm meanwhile.

May import planning and what lies below it, never reporting. Start with ``worker`` (one task in one
process) and ``schedule`` (which task next); the executors put workers into processes or actors.
"""
