"""One part at a time, in the tree of the parts."""
