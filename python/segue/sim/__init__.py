"""The simulated world: production code on simulated time, network, storage and store.

Read ``docs/simulator.md`` first.  Nothing here is imported by production code.
"""
