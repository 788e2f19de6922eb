"""What is seen of a run while it goes on, and its last lines.

May import results and planning's costs, nothing else of reporting. Start with ``progress``;
``time_left`` learns how long the rest will take.
"""
