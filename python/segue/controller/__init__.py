"""The controller: the central mapping table and everything that decides over it.

Read `controller.py` for the life of a term, `procedures/fault.py` for a fault, `table.py` for what
is stored, `agents.py` for sessions and leases.
"""
