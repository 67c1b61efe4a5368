"""A simulation of the service's core on virtual time: the real Scorer and Batcher, everything around them from a seed.

loop.py     an event loop whose time is a number and whose order of events is drawn
fold.py     a detector that is a running hash, and the same in plain Python, for the oracle
load.py   what goes wrong
redis.py    a server that is a dictionary
store.py    a worker's store, over a network that fails
senders.py  clients that send early, twice, in any order, and again
check.py    what must hold of a stream in the end
world.py    one run: all of it together
bugs.py     eight wrong versions of it, each of which must be caught
"""
