"""Pages that open from disk without a network: templates, charts, pictures.

May import the tables and caveats that all formats share. Start with ``html``, a sweep's page;
``leaderboard`` is that of a storage.
"""
