"""What ``run`` is made of: its options, what is recorded as tasks end, and how a sweep ends.

May import every room below it. Start at ``recording.Recorder``.
"""
