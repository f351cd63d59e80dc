"""How each event changes the state, one module per aggregate; :func:`interlock.domain.apply.apply` is the door.

One function per event; what an event does to entities comes first, index upkeep after it.
"""
