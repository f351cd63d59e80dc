"""Questions to the log: what happened, why, what the state was, what changed, and whether anybody altered it.

Nothing is imported here: ``audit verify`` must work where the domain cannot even be loaded.
"""
